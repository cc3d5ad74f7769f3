"The command line on a tiny model: what it writes, and one clear line for every kind of bad input."
import inspect
import json
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_nb import cli
from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import main, make_parser
from maskgit_nb.data import find_pictures, find_split, take_images
from maskgit_nb.images import random_holes, to_picture
from maskgit_nb.inpainting import EVIDENCE, GENERATING, PLAIN, REFINED, MaskGIT, likeness
from maskgit_nb.stages import fit_maskgit
from maskgit_nb.training import RunLog
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig

SIZE = 16


@pytest.fixture
def pictures(tmp_path) -> tuple[Path, Path]:
    "Five pictures 16x16 and their masks, named image_000.png and mask_000.png as in the lab."
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    rng = np.random.default_rng(0)
    for i, hole in enumerate(random_holes(5, SIZE, torch.Generator().manual_seed(0))[:, 0].numpy()):
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(images / f"image_{i:03d}.png")
        Image.fromarray((~hole * 255).astype(np.uint8)).save(masks / f"mask_{i:03d}.png")
    return images, masks


def pixels(path: Path) -> np.ndarray: return np.asarray(Image.open(path).convert("RGB"))


def run(weights: Path, images: Path, masks: Path, out: Path, *options: str) -> int:
    return main(["--device", "cpu", "inpaint", str(images), "--hole", str(masks), "--out", str(out), "--weights",
                 str(weights), *options])


def test_folder_is_mended_and_known_pixels_stay_bit_for_bit(weights, pictures, tmp_path, capsys):
    images, masks = pictures
    assert run(weights, images, masks, tmp_path / "out", "--batch-size", "2") == 0
    assert "5 of 5 images written" in capsys.readouterr().out
    for i in range(5):
        before, after = pixels(images / f"image_{i:03d}.png"), pixels(tmp_path / "out" / f"image_{i:03d}.png")
        known = pixels(masks / f"mask_{i:03d}.png")[..., 0] == 255
        assert (before[known] == after[known]).all() and (before[~known] != after[~known]).any()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"image_{i:03d}.png" for i in range(5)]


def test_batch_size_and_repetition_do_not_change_a_pixel_but_the_seed_does(weights, pictures, tmp_path):
    for name, options in dict(a=["--batch-size", "1"], b=["--batch-size", "5"], c=["--seed", "1"]).items():
        assert run(weights, *pictures, tmp_path / name, *options) == 0
    a, b, c = ([pixels(path) for path in sorted((tmp_path / name).iterdir())] for name in "abc")
    assert np.abs(np.int16(a) - np.int16(b)).max() <= 1 and (np.array(a) != np.array(c)).any()


def test_single_files_of_any_format_become_png(weights, pictures, tmp_path):
    images, masks = pictures
    Image.open(images / "image_000.png").convert("P").save(tmp_path / "palette.gif")
    assert run(weights, tmp_path / "palette.gif", masks / "mask_003.png", tmp_path / "out") == 0
    assert Image.open(tmp_path / "out" / "palette.png").size == (SIZE, SIZE)


def test_invert_swaps_known_and_missing(weights, pictures, tmp_path):
    images, masks = pictures
    assert run(weights, images, masks, tmp_path / "out", "--invert") == 0
    before, after = pixels(images / "image_000.png"), pixels(tmp_path / "out" / "image_000.png")
    missing = pixels(masks / "mask_000.png")[..., 0] == 255
    assert (before[~missing] == after[~missing]).all() and (before[missing] != after[missing]).any()


def test_all_known_is_unchanged_and_all_missing_is_generated(weights, pictures, tmp_path):
    images, _ = pictures
    Image.new("L", (SIZE, SIZE), 255).save(tmp_path / "known.png")
    Image.new("L", (SIZE, SIZE), 0).save(tmp_path / "missing.png")
    assert run(weights, images, tmp_path / "known.png", tmp_path / "a", "--frames", "--no-composite") == 0
    assert run(weights, images, tmp_path / "missing.png", tmp_path / "b") == 0
    assert (pixels(images / "image_001.png") == pixels(tmp_path / "a" / "image_001.png")).all()
    assert (pixels(images / "image_001.png") != pixels(tmp_path / "b" / "image_001.png")).mean() > 0.5


def test_frames_show_the_hole_and_every_step(weights, pictures, tmp_path):
    images, masks = pictures
    assert run(weights, images, masks, tmp_path / "out", "--frames", "--steps", "3") == 0
    sheet = pixels(tmp_path / "out-frames" / "image_002.png")
    assert sheet.shape == (SIZE, 4 * SIZE, 3)
    assert (sheet[:, -SIZE:] == pixels(tmp_path / "out" / "image_002.png")).all()


def test_truncated_file_is_named_and_the_others_are_done(weights, pictures, tmp_path, capsys):
    images, masks = pictures
    bad = images / "image_002.png"
    bad.write_bytes(bad.read_bytes()[:200])
    (images / "notes.txt").write_text("not a picture, and not meant to be one", encoding="utf-8")
    assert run(weights, images, masks, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "image_002.png" in said.err and "4 of 5" in said.out
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_last_file_of_a_batch_may_be_the_broken_one(weights, pictures, tmp_path):
    images, masks = pictures
    (images / "image_004.png").write_bytes(b"")
    assert run(weights, images, masks, tmp_path / "out", "--batch-size", "3") == 1
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize("change, expected", [
    (lambda images, masks: Image.new("RGB", (20, 12)).save(images / "image_001.png"), "20x12"),
    (lambda images, masks: Image.new("L", (8, 8)).save(masks / "mask_001.png"), "8x8"),
    (lambda images, masks: (masks / "mask_001.png").unlink(), "0 masks for"),
    (lambda images, masks: (masks / "mask_001.png").write_bytes(b"\x89PNG"), "mask_001.png"),
])
def test_one_bad_pair_is_named_and_the_others_are_done(weights, pictures, tmp_path, capsys, change, expected):
    change(*pictures)
    assert run(weights, *pictures, tmp_path / "out") == 1
    assert expected in capsys.readouterr().err
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_resize_takes_pictures_of_any_size(weights, tmp_path):
    Image.new("RGB", (200, 90), "teal").save(tmp_path / "wide.png")
    Image.new("L", (SIZE, SIZE), 0).save(tmp_path / "mask.png")
    assert run(weights, tmp_path / "wide.png", tmp_path / "mask.png", tmp_path / "out", "--resize") == 0
    assert Image.open(tmp_path / "out" / "wide.png").size == (SIZE, SIZE)


COMMANDS = {name: parser for action in make_parser()._actions if action.dest == "command"
            for name, parser in action.choices.items()}
NEEDED = {"inpaint": ["x", "--hole", "m", "--out", "o"], "generate": ["--out", "o"],
          "train-vqgan": ["--data", "x", "--out", "o"], "train": ["--data", "x", "--out", "o"], "fid": ["x", "y"]}
FREE = None, cli._name, cli._place
TAKE_A_WORD = [(name, action) for name, parser in COMMANDS.items()
               for action in parser._actions if action.option_strings and action.nargs != 0]


@pytest.mark.parametrize("command, action",
                         [pair for pair in TAKE_A_WORD if pair[1].type not in FREE or pair[1].choices],
                         ids=lambda value: value if isinstance(value, str) else value.dest)
def test_an_option_is_checked_before_any_work_and_its_range_is_in_the_help(command, action, capsys, monkeypatch,
                                                                           tmp_path):
    monkeypatch.chdir(tmp_path)
    assert action.type not in (int, float), "a bare number takes anything: _add_option"
    assert action.choices or any(word in action.help for word in ("at least", "above", "within"))
    for wrong in ("nan", "-inf", "word", "-7", ""):
        assert main([command, *NEEDED.get(command, []), f"{action.option_strings[0]}={wrong}"]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and said[0].startswith(f"maskgit-nb {command}: argument "
                                                     f"{action.option_strings[0]}") and wrong in said[0]
    assert not list(tmp_path.iterdir())


def test_all_options_but_names_and_places_are_checked():
    free = {action.dest for _, action in TAKE_A_WORD if action.type in FREE and not action.choices}
    assert free == {"weights", "vqgan", "init", "data", "val", "device", "hole", "like", "out"}


@pytest.mark.parametrize("options, words",
                         [(["--schedule", "cosin"], "'linear', 'cosine'"),
                          (["--steps", "0"], "a whole number, within [1,1000000]; got 0"),
                          (["--steps", "2.5"], "a whole number"), (["--order", "left"], "'halton'"),
                          (["--temperature", "-1"], "at least 0"), (["--top-p", "2"], "within (0,1]"),
                          (["--top-k", "0"], "within [1,"), (["--dilate", "-1"], "within [0,"),
                          (["--batch-size", "0"], "within [1,"), (["--sampling-temperature", "inf"], "at least 0"),
                          (["--seed", "99999999999"], "within"),])
def test_bad_option_is_one_line(weights, pictures, tmp_path, capsys, options, words):
    assert run(weights, *pictures, tmp_path / "out", *options) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and words in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options, words",
                         [(["--weights", "no-such-model"], "cats64-small"), (["--sweet-spot", "0"], "sweet_spot")])
def test_what_only_the_work_can_tell_is_one_line(weights, pictures, tmp_path, capsys, options, words):
    assert run(weights, *pictures, tmp_path / "out", *options) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("maskgit-nb: ") and words in said
    assert not list((tmp_path / "out").glob("*.png"))


def test_examples_in_the_help_are_commands():
    for name, parser in COMMANDS.items():
        words = parser.epilog.split()
        assert words[:3] == ["example:", "maskgit-nb", name] and make_parser().parse_args(words[2:]).command == name


def test_device_may_stand_before_the_command_and_after_it(capsys):
    for argv in (["--device", "cpu", "info"], ["info", "--device", "cpu"],
                 ["--device", "gpu", "info", "--device", "cpu"]):
        assert main(argv) == 0
    assert main(["info", "--device", "gpu"]) == 1
    assert "--device must be cpu" in capsys.readouterr().err


def test_an_error_of_another_library_says_so_and_traceback_shows_it(capsys, monkeypatch):
    monkeypatch.setattr(cli, "find_weights", lambda name: np.zeros(3).reshape(2, 2))
    assert main(["info"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "ValueError in test_cli.py" in said[0] and "--traceback" in said[0]
    with pytest.raises(ValueError, match="reshape"): main(["info", "--traceback"])
    assert main(["info", "no-such-model"]) == 1
    assert "--traceback" not in capsys.readouterr().err


def test_empty_folder_and_missing_paths(weights, pictures, tmp_path, capsys):
    images, masks = pictures
    (tmp_path / "empty").mkdir()
    for source, hole, expected in ((tmp_path / "empty", masks, "no pictures in"), (tmp_path / "none", masks, "none"),
                                   (images, tmp_path / "nomask", "nomask")):
        assert run(weights, source, hole, tmp_path / "out") == 1
        assert expected in capsys.readouterr().err


def test_out_that_cannot_be_written(weights, pictures, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file where the folder should be", encoding="utf-8")
    assert run(weights, *pictures, tmp_path / "taken") == 1
    assert "cannot write to --out" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "a file where the folder should be"
    assert run(weights, *pictures, Path("/proc/maskgit")) == 1


def test_weights_with_a_missing_or_damaged_file(weights, pictures, tmp_path, capsys, make_maskgit):
    make_maskgit(0).save_pretrained(tmp_path / "broken")
    (tmp_path / "broken" / "transformer.safetensors").write_bytes(b"not safetensors")
    assert run(tmp_path / "broken", *pictures, tmp_path / "out") == 1
    assert "transformer.safetensors" in capsys.readouterr().err
    (tmp_path / "broken" / "vqgan.safetensors").unlink()
    assert run(tmp_path / "broken", *pictures, tmp_path / "out") == 1
    assert "vqgan.safetensors" in capsys.readouterr().err


def test_generate_writes_so_many(weights, tmp_path):
    assert main(["--device", "cpu", "generate", "--n", "5", "--batch-size", "2", "--out", str(tmp_path), "--weights",
                 str(weights)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"000{i}.png" for i in range(5)]


def test_train_both_stages_then_mend_from_the_command_line(tmp_path):
    common = ["--data", "drawn:6", "--val", "drawn:4", "--preset", "tiny", "--steps", "2", "--batch-size", "2"]
    assert main(["--device", "cpu", "train-vqgan", *common, "--out", str(tmp_path / "v")]) == 0
    assert main(["--device", "cpu", "train", "--vqgan", str(tmp_path / "v"), *common, "--out",
                 str(tmp_path / "t")]) == 0
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "picture.png")
    Image.new("L", (64, 64), 0).save(tmp_path / "mask.png")
    assert run(tmp_path / "t", tmp_path / "picture.png", tmp_path / "mask.png", tmp_path / "out", "--steps", "2") == 0
    row = json.loads((tmp_path / "t" / "runs.jsonl").read_text(encoding="utf-8"))
    assert row["command"].startswith("maskgit-nb --device cpu train --vqgan") and row["seed"] == 0


def test_train_and_mend_on_a_folder_of_ones_own(tmp_path, capsys):
    own = tmp_path / "own" / "sub"
    own.mkdir(parents=True)
    modes = [("L", "png"), ("RGB", "jpg"), ("CMYK", "jpg"), ("RGBA", "webp"), ("P", "gif"), ("1", "bmp")]
    for i, (mode, kind) in enumerate(modes):
        to_picture(drawn_cats(1, seed=i)[0]).resize((50 + 37 * i, 300 - 40 * i)).convert(mode).save(own / f"{i}.{kind}")
    (own / "damaged.jpg").write_bytes((own / "1.jpg").read_bytes()[:300])
    (own / "notes.txt").write_text("no picture", encoding="utf-8")
    options = ["--data", str(own.parent), "--val", str(own.parent), "--preset", "tiny", "--steps", "2", "--batch-size",
               "3", "--tracker", "none"]
    assert main(["--device", "cpu", "train-vqgan", *options, "--out", str(tmp_path / "v"), "--rfd", "lite0"]) == 0
    assert "left out: cannot read" in (error := capsys.readouterr().err) and "damaged.jpg" in error
    found = [row for row in RunLog.read(tmp_path / "v") if "val_psnr" in row]
    assert found and all(row["val_rfd"] > 0 for row in found)
    assert main(["--device", "cpu", "train", "--vqgan", str(tmp_path / "v"), *options, "--out",
                 str(tmp_path / "t")]) == 0
    Image.new("RGB", (90, 40), "teal").save(tmp_path / "picture.png")
    for size, status in (((90, 40), 0), ((64, 64), 0), ((70, 40), 1)):
        mask = Image.new("L", size, 255)
        mask.putpixel((size[0] // 2, size[1] // 2), 0)
        mask.save(tmp_path / "mask.png")
        assert run(tmp_path / "t", tmp_path / "picture.png", tmp_path / "mask.png", tmp_path / "out", "--steps", "2",
                   "--resize") == status
        if status: assert "the mask for" in capsys.readouterr().err
        else: assert 0 < (pixels(tmp_path / "out" / "picture.png") != (0, 128, 128)).any(-1).sum() <= 4
    for path in own.iterdir():
        if path.name != "damaged.jpg": path.unlink()
    assert main(["--device", "cpu", "train-vqgan", *options, "--out", str(tmp_path / "w")]) == 1
    assert "can be read" in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_the_lab_preset_masks_half_of_all_tokens(monkeypatch, tmp_path):
    seen = []
    def fit(*args, **options):
        called = inspect.signature(fit_maskgit).bind(*args, **options)
        called.apply_defaults()
        seen.append((called.arguments["schedule"], called.arguments["hole_share"]))
    monkeypatch.setattr(cli, "fit_maskgit", fit)
    monkeypatch.setattr(cli, "BidirectionalTransformer",
                        lambda *args: BidirectionalTransformer(TransformerConfig.preset("tiny")))
    for options in (["--preset", "lab"], ["--preset", "small"], ["--preset", "lab", "--schedule", "linear"]):
        assert main(["train", "--data", "drawn:1", "--out", str(tmp_path), *options]) == 0
    assert seen == [("constant", 0.0), ("cosine", 0.5), ("linear", 0.0)]


def test_train_on_what_is_not_there(tmp_path, capsys):
    assert main(["train-vqgan", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "v")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "v").exists()
    assert main(["train", "--data", "drawn:2", "--preset", "huge", "--out", str(tmp_path / "t")]) == 2
    assert "'tiny', 'small', 'lab', 'paper'" in capsys.readouterr().err


def test_info_names_the_shipped_weights(capsys):
    assert main(["info"]) == 0
    assert "cats64-small: 64x64 pixels, 16x16 tokens of 1024 codes" in capsys.readouterr().out


def test_help_of_every_command(capsys):
    for command in ((), *((name,) for name in COMMANDS)):
        assert main([*command, "--help"]) == 0
        assert "usage: maskgit-nb" in capsys.readouterr().out


@pytest.mark.parametrize("n", [40, pytest.param(747, marks=pytest.mark.soak)])
def test_the_labs_747_pictures_through_one_command(cats_data, tmp_path, n: int):
    images, masks = find_split(cats_data, "masked_image"), find_split(cats_data, "mask64")
    some = tmp_path / "some"
    some.mkdir()
    for path in sorted(images.iterdir())[::747 // n][:n]: shutil.copy(path, some)
    assert main(["inpaint", str(some), "--hole", str(masks), "--out", str(tmp_path / "out"), "--steps", "1"]) == 0
    made = sorted((tmp_path / "out").iterdir())
    assert len(made) == n
    for path in made:
        known = np.asarray(Image.open(masks / path.name.replace("image", "mask")).convert("L")) >= 128
        assert (pixels(path)[known] == pixels(images / path.name)[known]).all()


@pytest.mark.parametrize("options, words",
                         [(["--data", "drawn:abc"], "N from 1 to 1000000; got drawn:abc"),
                          (["--data", "drawn:0"], "N from 1 to 1000000; got drawn:0"),
                          (["--data", "{cats}", "--out", "{cats}/run"], "lies in"),
                          (["--data", "drawn:4", "--init", "{run}", "--out", "{run}", "--restart"], "would move"),])
def test_what_training_must_not_begin_with_is_one_sentence(tmp_path, capsys, options, words):
    places = dict(cats=tmp_path / "cats", run=tmp_path / "run")
    for place in places.values(): place.mkdir()
    to_picture(drawn_cats(1)[0]).save(tmp_path / "cats" / "0.png")
    MaskGIT.from_pretrained("cats64-small").save_pretrained(tmp_path / "run")
    out = [] if "--out" in options else ["--out", str(tmp_path / "other")]
    status = main(["--device", "cpu", "train-vqgan", "--preset", "tiny", "--steps", "1", *out,
                   *(option.format(**places) for option in options)])
    said = capsys.readouterr().err.strip().splitlines()
    assert status == 1 and len(said) == 1 and words in said[0]
    kept = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert kept == [f"{name}.safetensors" for name in ("evidence", "refiner", "transformer", "vqgan")]


def test_drawn_cats_to_validate_on_are_not_among_those_trained_on():
    trained = {x.numpy().tobytes() for x in drawn_cats(300)}
    assert not trained & {x.numpy().tobytes() for x in take_images("drawn:256", 64)}
    assert len(take_images("drawn:1000", 64)) == 256


def test_a_preset_takes_the_size_of_its_vqgan(weights, make_maskgit, tmp_path):
    assert main(["train", "--vqgan", str(weights), "--preset", "tiny", "--data", "drawn:4", "--steps", "1",
                 "--batch-size", "2", "--device", "cpu", "--tracker", "none", "--out", str(tmp_path)]) == 0
    ours, theirs = BidirectionalTransformer.from_pretrained(tmp_path).config, make_maskgit(0).vqgan.config
    assert (ours.num_tokens, ours.codebook_size, ours.code_dim, ours.dim) == (theirs.grid**2, theirs.codebook_size,
                                                                              theirs.latent_dim, 192)


def test_what_is_not_installed_is_said_before_a_picture_is_read(monkeypatch, tmp_path, capsys):
    def missing(*args): raise ImportError("needs: pip install 'maskgit_nb[perceptual]'")
    def read(*args): raise AssertionError("pictures were read first")
    for name in ("open_images", "_open_val"): monkeypatch.setattr(cli, name, read)
    command = ["train-vqgan", "--data", "drawn:2", "--val", "drawn:2", "--out", str(tmp_path / "v")]
    with monkeypatch.context() as patch:
        patch.setattr(cli, "PerceptualLoss", missing)
        assert main([*command, "--perceptual", "1"]) == 1
    with monkeypatch.context() as patch:
        patch.setattr(cli, "get_network", missing)
        assert main([*command, "--rfd", "lite0"]) == 1
    assert main([*command, "--decoder-only"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 3 and "name it with --init" in said[2] and not (tmp_path / "v").exists()


def test_a_study_on_drawn_cats_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "run_experiment", lambda *args, **options: [])
    for value, said in ((None, True), (str(tmp_path), False)):
        if value is None: monkeypatch.delenv("MASKGIT_NB_DATA", raising=False)
        else: monkeypatch.setenv("MASKGIT_NB_DATA", value)
        assert main(["experiment", "baselines", "--out", str(tmp_path)]) == 0
        assert ("MASKGIT_NB_DATA is not set: these are figures of drawn cats" in capsys.readouterr().err) == said


def test_every_study_that_may_be_run_is_listed(capsys):
    assert main(["experiment"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    name = next(action for action in COMMANDS["experiment"]._actions if action.dest == "name")
    assert listed == list(name.choices)


def test_ctrl_c_says_where_the_run_was_saved(monkeypatch, capsys):
    for words, expected in (("stopped at step 7, saved in runs: run again to go on",) * 2, ("", "stopped")):
        def interrupted(*args): raise KeyboardInterrupt(words) if words else KeyboardInterrupt
        monkeypatch.setattr(cli, "find_weights", interrupted)
        assert main(["info"]) == 130
        assert capsys.readouterr().err.strip() == f"maskgit-nb: {expected}"


def asked_of_inpaint(weights, pictures, out, *options: str) -> dict:
    "The options that the command hands to `MaskGIT.inpaint`."
    with patch.object(MaskGIT, "inpaint", autospec=True, side_effect=MaskGIT.inpaint) as called:
        assert run(weights, *pictures, out, *options) == 0
    return {name: value for name, value in called.call_args.kwargs.items() if name != "generator"}


def test_plain_leaves_out_the_three_additions(weights, pictures, tmp_path):
    ways = dict(usual=[], plain=["--plain"], apart=["--evidence", "0", "--no-blend"])
    asked = {name: asked_of_inpaint(weights, pictures, tmp_path / name, "--frames", *options)
             for name, options in ways.items()}
    assert asked["usual"]["blend"] and not {"evidence", "sampling_temperature", "fill"} & {*asked["usual"]}
    assert not asked["usual"]["refine"]
    assert asked["plain"] == asked["usual"] | PLAIN and asked["apart"] == asked["usual"] | dict(evidence=0.0,
                                                                                                blend=False)
    usual, plain, apart = ([pixels(path) for path in sorted((tmp_path / name).iterdir())] for name in asked)
    assert (np.array(plain) != np.array(usual)).any() and (np.array(plain) != np.array(apart)).any()
    for i in range(5):  # the frames are plain as well
        sheet = pixels(tmp_path / "plain-frames" / f"image_{i:03d}.png")
        assert (sheet[:, -SIZE:] == plain[i]).all()


@pytest.mark.parametrize("options, words",
                         [(["--evidence", "30"], "without --evidence"), (["--evidence", "0"], "without --evidence"),
                          (["--no-blend"], "without --no-blend"),
                          (["--refine"], "without --refine"),
                          (["--no-blend", "--evidence", "3"], "without --evidence and --no-blend")])
def test_plain_is_refused_beside_what_it_sets(weights, pictures, tmp_path, capsys, options, words):
    assert run(weights, *pictures, tmp_path / "out", "--plain", *options) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("maskgit-nb: --plain leaves out") and said[0].endswith(words)
    assert not (tmp_path / "out").exists()


def test_refine_corrects_results_and_frames(weights, pictures, tmp_path):
    asked = asked_of_inpaint(weights, pictures, tmp_path / "refined", "--refine", "--frames")
    assert asked["refine"] and run(weights, *pictures, tmp_path / "usual") == 0
    usual, refined = (np.array([pixels(path) for path in sorted((tmp_path / name).iterdir())])
                      for name in ("usual", "refined"))
    assert (usual != refined).any()
    for i in range(5):
        sheet = pixels(tmp_path / "refined-frames" / f"image_{i:03d}.png")
        assert (sheet[:, -SIZE:] == refined[i]).all()
    assert run(weights, *pictures, tmp_path / "cached", "--refine", "--cached") == 0
    assert asked == asked | REFINED
    given = "--evidence", "3", "--sampling-temperature", "1"
    own = asked_of_inpaint(weights, pictures, tmp_path / "own", "--refine", *given)
    assert own == asked | dict(evidence=3, sampling_temperature=1, frames=False)


def test_refine_is_refused_where_it_cannot_be(weights, pictures, tmp_path, capsys):
    assert run(weights, *pictures, tmp_path / "out", "--refine", "--no-composite") == 1
    assert "give it without --no-composite" in capsys.readouterr().err and not (tmp_path / "out").exists()
    shutil.copytree(weights, tmp_path / "alone")
    for name in ("evidence", "refiner"):
        (tmp_path / "alone" / f"{name}.safetensors").unlink()
        assert run(tmp_path / "alone", *pictures, tmp_path / "out", "--refine") == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and f"{name}.safetensors" in said[0] and "alone" in said[0]
        assert not (tmp_path / "out").exists()
        if name == "refiner": continue
        assert run(tmp_path / "alone", *pictures, tmp_path / "weighed", "--refine", "--evidence", "9") == 0
        capsys.readouterr()


def test_generate_like_examples_and_refined(weights, pictures, tmp_path, capsys):
    command = ["--device", "cpu", "generate", "--n", "3", "--steps", "2", "--weights", str(weights), "--refine"]
    assert main([*command, "--out", str(tmp_path / "made"), "--like", str(pictures[0])]) == 0
    model = MaskGIT.from_pretrained(weights)
    favour = likeness(model, take_images(str(pictures[0]), SIZE))
    made = model.generate(3, torch.Generator().manual_seed(0), steps=2, refine=True, favour=favour).images
    for x, path in zip(made, sorted((tmp_path / "made").iterdir()), strict=True):
        assert (pixels(path) == np.asarray(to_picture(x))).all()
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "none"), "--like", str(tmp_path / "nowhere")]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "nowhere" in said[0] and not (tmp_path / "none").exists()
    assert main([*command, "--out", str(pictures[0]), "--like", str(pictures[0])]) == 1
    assert "folder of the originals" in capsys.readouterr().err and len(find_pictures(pictures[0])) == 5


def test_plain_goes_with_the_other_options_and_is_inpaints_alone(weights, pictures, tmp_path, capsys):
    assert run(weights, *pictures, tmp_path / "out", "--plain", "--dilate", "1", "--no-composite", "--steps", "2") == 0
    for command in ("generate", "demo"): assert main([command, "--out", str(tmp_path / command), "--plain"]) == 2
    assert "--plain" in capsys.readouterr().err
    assert "--plain" in COMMANDS["inpaint"].format_help()
    assert f"default: {EVIDENCE}" in COMMANDS["inpaint"].format_help()


@pytest.mark.parametrize("half, said", [(2e9, "5.0 times slower in bf16: leave --precision out"), (2e10, "")])
def test_a_processor_that_is_slower_in_bf16_is_told_of(weights, pictures, tmp_path, capsys, monkeypatch, half, said):
    monkeypatch.setattr(cli, "product_rate", lambda shape, n, dtype: half if dtype == torch.bfloat16 else 1e10)
    assert run(weights, *pictures, tmp_path / "out", "--precision", "bf16", "--steps", "1") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "bf16" in line]
    assert len(lines) == bool(said) and all(line.endswith(said) for line in lines)
    monkeypatch.delattr(cli, "product_rate")  # which is not asked without the option
    assert run(weights, *pictures, tmp_path / "plain", "--steps", "1") == 0


def test_generate_has_options_of_its_own():
    made, mended = (make_parser().parse_args(words)
                    for words in (["generate", "--out", "o"], ["inpaint", "x", "--hole", "h", "--out", "o"]))
    asked, usual = cli._decode_options(made), cli._decode_options(mended)
    assert asked == usual | GENERATING != usual
