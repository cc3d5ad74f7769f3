"Files of other programs are read as they are meant, or refused by name. What is there is not lost. Pairs go by name."
import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from safetensors import safe_open
from safetensors.torch import save_file

from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import _output_folder, main, partner_finder
from maskgit_nb.data import load_hole, load_image
from maskgit_nb.files import save_film, save_module, save_png, save_sheet, save_text
from maskgit_nb.images import to_picture
from maskgit_nb.vqgan import VQGAN

ROOT, SIZE = Path(__file__).parents[1], 16
cv2, iio, tifffile = map(pytest.importorskip, ("cv2", "imageio.v3", "tifffile"))  # other programs' writers
plt = pytest.importorskip("matplotlib.pyplot")

RAMP = np.tile(np.linspace(0, 1, SIZE), (SIZE, 1))
COLOUR = np.stack([RAMP, RAMP.T, 1 - RAMP], -1)
KNOWN = np.ones((SIZE, SIZE), dtype=bool)
KNOWN[4:9, 3:11] = False


def levels(pixels: np.ndarray, kind: str, white: float) -> np.ndarray:
    "Numbers from 0 to 1 as a program keeps them: of this type, up to `white`."
    return (pixels * white).astype(kind) if kind[0] in "fb" else (pixels * white).round().astype(kind)


def pillow(mode: str) -> Callable:
    "Writes numbers from 0 to 1 in this mode of Pillow; gives the colours that it wrote."
    def write(path: Path, pixels: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(levels(pixels, "uint8", 255))
        if mode in ("LAB", "HSV"): picture = picture.convert("RGB")
        held = picture.convert(mode)
        held.save(path)
        if mode == "LAB": held = picture
        if mode[0] in "IF": held = picture.convert("L")
        return np.asarray(held.convert("RGB")) / 255
    return write


def array(save: Callable, load: Callable, kind: str, white: float) -> Callable:
    "As `pillow`, in this type by another program; None if its own reader does not find again what it wrote."
    def write(path: Path, pixels: np.ndarray) -> np.ndarray | None:
        given = levels(pixels, kind, white)
        save(path, given)
        back = np.asarray(load(path), dtype=float)
        if back.shape != given.shape or np.abs(back - given).mean() > 0.1 * white: return None
        return np.broadcast_to(given if given.ndim == 3 else given[..., None], (SIZE, SIZE, 3)) / white
    return write


def in_blue_green_red(x: np.ndarray) -> np.ndarray: return x[..., ::-1] if x.ndim == 3 else x


def opencv_write(path: Path, x: np.ndarray) -> None: cv2.imwrite(str(path), in_blue_green_red(x))


def opencv_read(path: Path) -> np.ndarray: return in_blue_green_red(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


MODES = "1 L P RGB RGBA LA PA CMYK YCbCr LAB HSV I F I;16".split()
ENDINGS = "png tif jpg bmp gif webp ppm tga jp2 pcx ico avif".split()
WRITERS = {f"pillow-{mode}.{ending}": pillow(mode) for mode in MODES for ending in ENDINGS}
PROGRAMS = {"opencv": (opencv_write, opencv_read), "imageio": (iio.imwrite, iio.imread),
            "tifffile": (tifffile.imwrite, tifffile.imread)}
for kind, white in (("bool", 1), ("uint8", 255), ("uint16", 65535), ("uint16", 255), ("int16", 32767), ("int16", 255),
                    ("int32", 255), ("int32", 65535), ("uint32", 255), ("int64", 255), ("uint64", 255), ("float16", 1),
                    ("float32", 1), ("float32", 255), ("float64", 1)):
    for program in PROGRAMS:
        for ending in ("tif",) if program == "tifffile" else ("png", "tif", "jpg", "bmp", "webp"):
            WRITERS[f"{program}-{kind}-{white}.{ending}"] = array(*PROGRAMS[program], kind, white)


def written(path: Path, pixels: np.ndarray) -> np.ndarray | None:
    "Let the writer of this name write; gives the colours in the file, None if the program writes no such files."
    try: return WRITERS[path.name](path, pixels)
    except Exception: return None


def refused(load: Callable, path: Path) -> bool:
    "Whether a file is refused, in one sentence with its name; any other error is the test's."
    try: load(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return True
    return False


LOSSY = ("jpg", "webp", "avif", "jp2")
GREY_AND_COLOUR = (  # must be read
    "pillow-L.", "pillow-RGB.", "pillow-RGBA.png", "pillow-LA.png", "pillow-P.png", "pillow-CMYK.tif",
    "pillow-I;16.png", "pillow-I.tif", "pillow-F.tif", "opencv-uint8", "opencv-uint16-65535", "imageio-uint8",
    "tifffile-uint8", "tifffile-uint16-65535")
MOST = dict.fromkeys(LOSSY, 25) | dict(gif=8)  # levels, of 255, that a kind of file may change
GREY = ("opencv-float32-1.tif", "opencv-float32-255.", "imageio-uint16", "tifffile-uint16", "tifffile-int16-255",
        "tifffile-int32", "tifffile-uint32", "tifffile-float32")


@pytest.mark.parametrize("pixels", [RAMP, COLOUR], ids=["grey", "colour"])
@pytest.mark.filterwarnings("ignore")
def test_pictures_of_other_programs_are_read_or_refused(tmp_path, pixels):
    read = []
    for name in WRITERS:
        colours = written(tmp_path / name, pixels)
        if colours is None: continue
        if refused(load_image, tmp_path / name):
            assert not name.startswith(GREY_AND_COLOUR + (GREY if pixels.ndim == 2 else ())), name
            continue
        if name.startswith("opencv-bool") or colours.max() * 255 < 2: continue  # 0 and 1 of 255: black
        # a PNG's levels have no sign: white is 65535
        if name == "imageio-int16-32767.png": colours = colours * 32767 / 65535
        error = (load_image(tmp_path / name).permute(1, 2, 0).numpy() + 1) * 127.5 - colours * 255
        assert np.abs(error).mean() <= next((most for ending, most in MOST.items() if name.endswith(ending)), 1), name
        read.append(name)
    assert len(read) >= 110 and all(any(name.startswith(part) for name in read) for part in GREY_AND_COLOUR)


@pytest.mark.parametrize("labels", [False, True])  # 0 and 1 instead of 0 and white
@pytest.mark.filterwarnings("ignore")
def test_masks_of_other_programs_are_read_exactly_or_refused(tmp_path, labels):
    read = []
    for name in WRITERS:
        top = 1 / float(name.rsplit("-", 1)[1].split(".")[0]) if "pillow" not in name else 1 / 255
        colours = written(tmp_path / name, KNOWN * (top if labels else 1.0))
        if colours is None or colours.min() == colours.max() or labels and name.endswith((*LOSSY, "RGBA.gif")): continue
        if refused(load_hole, tmp_path / name):
            assert not name.startswith(GREY_AND_COLOUR + GREY), name
            continue
        assert np.array_equal(load_hole(tmp_path / name)[0].numpy(), ~KNOWN), name
        assert np.array_equal(load_hole(tmp_path / name, invert=True)[0].numpy(), KNOWN), name
        read.append(name)
    assert len(read) >= (80 if labels else 130)


@pytest.mark.parametrize("quality", [10, 30, 60, 95])
def test_soft_edges_and_jpeg_noise_move_no_more_than_the_edge(tmp_path, quality):
    known = np.ones((64, 64), dtype=np.uint8) * 255
    known[20:44, 12:50] = 0
    Image.fromarray(known).filter(ImageFilter.GaussianBlur(1.5)).save(tmp_path / "soft.jpg", quality=quality)
    hole = load_hole(tmp_path / "soft.jpg")[0].numpy()
    assert hole[22:42, 14:48].all()
    hole[18:46, 10:52] = False
    assert not hole.any()


def rgba(colour: np.ndarray | int, alpha: np.ndarray) -> Image.Image:
    bands = np.concatenate([np.broadcast_to(colour, (SIZE, SIZE, 3)), alpha[..., None]], -1)
    return Image.fromarray(bands.astype(np.uint8))


def grey(pixels: np.ndarray) -> Image.Image: return Image.fromarray(pixels.astype(np.uint8))


def palette_mask() -> Image.Image:
    picture = Image.fromarray(KNOWN.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0])  # as label programs colour their classes: black, dark red
    return picture


CAT = to_picture(drawn_cats(1, size=SIZE)[0])
UNCLEAR = {
    "black, shape in alpha": rgba(0, KNOWN * 255), "black strokes on nothing": rgba(0, ~KNOWN * 255),
    "white, shape in alpha": rgba(255, KNOWN * 255), "picture cut out": rgba(np.asarray(CAT), KNOWN * 255),
    "half transparent": rgba(0, KNOWN * 128 + 60), "all transparent": rgba(0, KNOWN * 0), "picture": CAT,
    "grey picture": grey((RAMP * 0.4 + 0.3) * 255), "dark red class": palette_mask(),
    "red on black": Image.fromarray(np.stack([KNOWN * 255, KNOWN * 0, KNOWN * 0], -1).astype(np.uint8)),
    "half-bright": grey(KNOWN * 127), "three labels": grey(KNOWN * 2), "half-dark": grey(255 - ~KNOWN * 110),
    "greys": grey(KNOWN * 40 + 90)}


@pytest.mark.parametrize("name", UNCLEAR)
def test_masks_that_can_be_meant_in_two_ways_are_refused(weights, tmp_path, capsys, name):
    CAT.save(tmp_path / "cat.png")
    UNCLEAR[name].save(tmp_path / "mask.png")
    assert run(weights, tmp_path / "cat.png", tmp_path / "mask.png", tmp_path / "out") == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("maskgit-nb")]
    assert len(said) == 1 and "mask.png" in said[0]
    assert "is no clear mask" in said[0] or "transparent all over" in said[0]
    assert not list((tmp_path / "out").iterdir())


def test_colour_maps_pages_and_clear_masks_that_only_look_odd(tmp_path):
    plt.imsave(tmp_path / "viridis.png", KNOWN)
    assert refused(load_hole, tmp_path / "viridis.png")
    tifffile.imwrite(tmp_path / "pages.tif", levels(COLOUR.transpose(2, 0, 1), "uint8", 255), photometric="minisblack")
    assert refused(load_image, tmp_path / "pages.tif") and refused(load_hole, tmp_path / "pages.tif")
    plt.imsave(tmp_path / "grey.png", KNOWN, cmap="gray")  # opaque RGBA
    Image.fromarray(KNOWN.astype(np.uint8) * 254 + 1).save(tmp_path / "nearly.png")
    for name in ("grey.png", "nearly.png"):
        assert np.array_equal(load_hole(tmp_path / name)[0].numpy(), ~KNOWN)
    for value, share in ((0, 1), (255, 0), (1, 0), (254, 0)):  # one level all over
        Image.new("L", (SIZE, SIZE), value).save(tmp_path / "flat.png")
        assert load_hole(tmp_path / "flat.png").float().mean() == share


def test_a_deep_picture_keeps_its_transparency_and_its_way_up(tmp_path):
    x = Image.fromarray(levels(RAMP, "uint16", 65535))
    x.save(tmp_path / "clear.png", transparency=0)
    clear = load_image(tmp_path / "clear.png")
    assert (clear[:, :, 0] == 1).all() and clear[0, 0, 1] < 0
    upside_down = (274, "H", 1, 3, True)
    tifffile.imwrite(tmp_path / "turned.tif", levels(RAMP, "uint16", 65535), extratags=[upside_down])
    assert torch.equal(load_image(tmp_path / "turned.tif"), load_image_of(x, tmp_path).flip(-1))
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert refused(load_image, tmp_path / "photo.heic")


def load_image_of(picture: Image.Image, folder: Path) -> torch.Tensor:
    picture.save(folder / "straight.png")
    return load_image(folder / "straight.png")


# --- what is there is not lost ---

@pytest.fixture
def cats(tmp_path) -> tuple[Path, Path]:
    "Three pictures and, of the same names, their masks."
    for name in ("images", "masks"): (tmp_path / name).mkdir()
    for i, x in enumerate(drawn_cats(3, size=SIZE)):
        to_picture(x).save(tmp_path / "images" / f"cat_{i}.png")
        Image.fromarray(np.roll(KNOWN, i, 1)).save(tmp_path / "masks" / f"cat_{i}.png")
    return tmp_path / "images", tmp_path / "masks"


def run(weights: Path, images: Path, masks: Path, out: Path, *options: str) -> int:
    return main(["--device", "cpu", "inpaint", str(images), "--hole", str(masks), "--out", str(out),
                 "--weights", str(weights), "--steps", "2", *options])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sentence(capsys) -> str:
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("maskgit-nb: ")]
    assert len(said) == 1
    return said[0]


@pytest.mark.parametrize("out", ["images", "masks", "images/../images", "link", "masks-link", "originals", "frames"])
def test_out_never_lies_over_originals(weights, cats, tmp_path, capsys, out):
    (tmp_path / "link").symlink_to(tmp_path / "images")
    (tmp_path / "masks-link").symlink_to(tmp_path / "masks")
    for folder in ("originals", "frames-frames"):  # another folder with files of the same names
        (tmp_path / folder).mkdir()
        to_picture(drawn_cats(1, seed=9)[0]).save(tmp_path / folder / "cat_1.png")
    before = contents(tmp_path)
    assert run(weights, *cats, tmp_path / out, *(["--frames"] if out == "frames" else [])) == 1
    assert "give another" in sentence(capsys) and contents(tmp_path) == before


def test_a_single_picture_is_not_overwritten_but_results_are_made_anew(weights, cats, tmp_path, capsys):
    images, masks = cats
    before = contents(images)
    assert run(weights, images / "cat_0.png", masks / "cat_0.png", images) == 1
    assert "cat_0.png is an original" in sentence(capsys) and contents(images) == before
    Image.open(images / "cat_0.png").save(images / "other.bmp")
    assert run(weights, images / "other.bmp", masks / "cat_0.png", images) == 0  # beside the original, under a new name
    first = (images / "other.png").read_bytes()
    assert run(weights, images / "other.bmp", masks / "cat_0.png", images, "--seed", "1") == 0
    assert (images / "other.png").read_bytes() != first
    assert {name: contents(images)[name] for name in before} == before
    assert run(weights, images / "other.png", masks / "cat_0.png", images) == 1  # a result is now the original


@pytest.mark.parametrize("first, second", [("cat.jpg", "cat.png"), ("Cat.png", "cat.png"), ("a.b.png", "a.b.bmp"),
                                           ("caf\u00e9.png", "cafe\u0301.png")])
def test_two_results_of_one_name_are_refused(weights, tmp_path, capsys, first, second):
    (tmp_path / "in").mkdir()
    for name in (first, second): to_picture(drawn_cats(1, size=SIZE)[0]).save(tmp_path / "in" / name)
    Image.fromarray(KNOWN).save(tmp_path / "mask.png")
    assert run(weights, tmp_path / "in", tmp_path / "mask.png", tmp_path / "out") == 1
    assert "rename one" in sentence(capsys) and not (tmp_path / "out").exists()


def test_generate_and_demo_leave_what_others_made(weights, cats, tmp_path, capsys):
    images, _ = cats
    to_picture(drawn_cats(1)[0]).save(images / "0001.png")
    before = contents(images)
    common = ["--weights", str(weights), "--out", str(images)]
    assert main(["--device", "cpu", "generate", "--n", "2", *common]) == 1
    assert "0001.png is there already" in sentence(capsys)
    assert main(["--device", "cpu", "demo", *common]) == 1
    assert "other files than a demo" in sentence(capsys)
    assert contents(images) == before


def test_out_holds_the_results_alone(weights, cats, tmp_path):
    assert run(weights, *cats, tmp_path / "out", "--frames") == 0
    names = ["cat_0.png", "cat_1.png", "cat_2.png"]
    for folder in ("out", "out-frames"): assert sorted(contents(tmp_path / folder)) == names


def test_masks_that_take_all_or_nothing_are_said_in_one_line(weights, cats, tmp_path, capsys):
    images, masks = cats
    assert run(weights, images, masks, tmp_path / "a") == 0 and "maskgit-nb: " not in capsys.readouterr().err
    Image.new("L", (SIZE, SIZE), 255).save(tmp_path / "white.png")
    assert run(weights, images, tmp_path / "white.png", tmp_path / "b") == 0
    said = sentence(capsys)
    assert "takes nothing of" in said and "and 2 more" in said
    assert run(weights, images, tmp_path / "white.png", tmp_path / "c", "--invert") == 0
    said = sentence(capsys)
    assert "more than half of" in said and "(without --invert)" in said


@contextmanager
def full_disk() -> Iterator[None]:
    "No file grows beyond 40 bytes: the system's own error, in the midst of writing."
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
    try: yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


spec = importlib.util.spec_from_file_location("writing", ROOT / "tools" / "writing.py")
writing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writing)
SAVERS = {
    "save_png": lambda path, maskgit: save_png(drawn_cats(1)[0], path),
    "save_sheet": lambda path, maskgit: save_sheet([drawn_cats(2)], path),
    "save_film": lambda path, maskgit: save_film(drawn_cats(3), path),
    "save_module": lambda path, maskgit: save_module(maskgit.vqgan, path),
    "save_text": lambda path, maskgit: save_text("new" * 100, path),
    "write_whole": lambda path, maskgit: writing.write_whole(path, "new" * 100)}


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
@pytest.mark.parametrize("name", SAVERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, maskgit, name):
    path = tmp_path / "kept"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(Exception), full_disk(): SAVERS[name](path, maskgit)  # noqa: B017
    assert contents(tmp_path) == {"kept": b"old"}
    SAVERS[name](path, maskgit)
    assert list(contents(tmp_path)) == ["kept"] and path.stat().st_size > 3
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask  # to be read by whoever may read others


def test_several_may_try_one_folder_and_write_one_file_at_once(tmp_path):
    pictures = drawn_cats(4)
    def work(i: int) -> None:
        _output_folder(tmp_path / "out")
        if i % 10 == 0: save_png(pictures[i % 4], tmp_path / "out" / "cat.png")
    with ThreadPoolExecutor(4) as pool: list(pool.map(work, range(1200)))
    assert list(contents(tmp_path / "out")) == ["cat.png"]
    assert any(torch.equal(load_image(tmp_path / "out" / "cat.png"), x) for x in pictures)


def test_a_folder_that_a_script_made_is_marked(tmp_path):
    writing.check_folder(tmp_path / "absent")
    writing.check_folder(tmp_path)
    (tmp_path / "photo.jpg").write_text("mine", encoding="utf-8")
    for place in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(FileExistsError, match="was not made here"): writing.check_folder(place)
    writing.write_files(tmp_path, {"a.txt": "a", "sub/b.txt": "b"})
    writing.check_folder(tmp_path)
    writing.write_files(tmp_path, {"a.txt": "new"})
    (tmp_path / "sub" / "b.txt").write_text("changed by hand", encoding="utf-8")
    with pytest.raises(FileExistsError, match="b.txt is not as it was written"):
        writing.write_files(tmp_path, {"a.txt": "newer", "sub/b.txt": "b2"})
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"
    assert (tmp_path / "photo.jpg").read_text(encoding="utf-8") == "mine"


# --- pairs go by name ---

@given(st.sets(st.integers(0, 2000), min_size=1, max_size=12), st.data())
def test_a_partner_is_never_the_wrong_one(numbers, data):
    numbers = data.draw(st.permutations(sorted(numbers)))
    kept = data.draw(st.sets(st.sampled_from(numbers)))
    named = data.draw(st.sets(st.sampled_from(numbers)))
    pictures = [Path("images", f"image_{n:03d}.png") for n in numbers]
    masks = [Path("masks", f"image_{n:03d}.jpg" if n in named else f"mask_{n}.png") for n in kept]
    masks += [Path("masks", f"mask_{max(numbers) + 1}.png"), Path("masks/none.png")]  # more than there are pictures
    find = partner_finder(pictures, data.draw(st.permutations(masks)), "mask")
    for n, picture in zip(numbers, pictures, strict=True):
        if n in kept: assert int(find(picture).stem.split("_")[1]) == n
        else:
            with pytest.raises(FileNotFoundError, match="0 masks for"): find(picture)


def fid(capsys, *options) -> tuple[int, dict[str, float], str]:
    status = main(["--device", "cpu", "fid", "--network", "random", *map(str, options)])
    said = capsys.readouterr()
    return status, {line.split(":")[0]: float(line.split(":")[1]) for line in said.out.splitlines()}, said.err


@pytest.fixture
def sides(tmp_path) -> Path:
    "Six real pictures, the same but for a hole that is a little darker, and their masks."
    for name in ("real", "made", "masks"): (tmp_path / name).mkdir()
    rows = []
    for i, x in enumerate(drawn_cats(6, seed=4)):
        hole = torch.zeros(64, 64, dtype=torch.bool)
        hole[8 * i:8 * i + 12, 5:30] = True
        to_picture(x).save(tmp_path / "real" / f"image_{i:03d}.png")
        to_picture(torch.where(hole, x - 0.1, x)).save(tmp_path / "made" / f"image_{i:03d}.png")
        Image.fromarray(~hole.numpy()).save(tmp_path / "masks" / f"mask_{i:03d}.png")
        rows.append(",".join(map(str, np.asarray(to_picture(x)).reshape(-1))))
    (tmp_path / "test_gt.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def test_fid_pairs_by_name_or_refuses(sides, capsys):
    status, straight, said = fid(capsys, sides / "real", sides / "made", "--hole", sides / "masks")
    assert status == 0 and straight["hole_psnr"] > 25 and "maskgit-nb" not in said
    rows = fid(capsys, sides / "test_gt.csv", sides / "made", "--hole", sides / "masks")[1]  # row i is image i
    assert rows == straight
    for name in ("mask_999", "a_first"): Image.new("L", (64, 64)).save(sides / "masks" / f"{name}.png")
    surplus = fid(capsys, sides / "real", sides / "made", "--hole", sides / "masks")[1]
    assert surplus == straight  # they shift nothing
    for i, letter in enumerate("fedcba"):  # another order by name, the same numbers
        (sides / "made" / f"image_{i:03d}.png").rename(sides / "made" / f"{letter}_{i}.png")
    again = fid(capsys, sides / "real", sides / "made", "--hole", sides / "masks")[1]
    assert again["hole_psnr"] == pytest.approx(straight["hole_psnr"], abs=1e-3)
    (sides / "made" / "f_0.png").rename(sides / "made" / "f_6.png")
    status, _, said = fid(capsys, sides / "real", sides / "made", "--hole", sides / "masks")
    assert status == 1 and "0 masks for" in said and "f_6.png" in said
    (sides / "made" / "f_6.png").unlink()
    status, _, said = fid(capsys, sides / "real", sides / "made", "--hole", sides / "masks")
    assert status == 1 and "6 real, 5 made" in said


def test_fid_takes_swapped_masks_and_names_one_of_another_size(sides, capsys):
    straight = fid(capsys, sides / "real", sides / "made", "--hole", sides / "masks")[1]
    for path in (sides / "masks").iterdir():
        with Image.open(path) as mask: swapped = ~np.asarray(mask)
        Image.fromarray(swapped).save(path)
    assert fid(capsys, sides / "real", sides / "made", "--hole", sides / "masks", "--invert")[1] == straight
    Image.new("1", (32, 32)).save(sides / "masks" / "mask_002.png")
    status, _, said = fid(capsys, sides / "real", sides / "made", "--hole", sides / "masks")
    assert status == 1 and "mask_002.png" in said and "32x32" in said and "Traceback" not in said


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_fid_of_few_pictures_gives_what_can_be_had(sides, capsys, number):
    for name in ("real", "made"):
        for path in sorted((sides / name).iterdir())[number:]: path.unlink()
    status, row, said = fid(capsys, sides / "real", sides / "made", "--hole", sides / "masks")
    assert status == 0 and row["hole_psnr"] > 25
    assert ("kid" in row) == (number >= 2) and ("precision" in row) == ("kid_sd" in row) == (number >= 4)
    assert ("need 4" in said) == (number < 4) and ("fd and kid need 2" in said) == (number < 2)
    status, row, said = fid(capsys, sides / "real", sides / "made")
    assert status == (number == 1) == ("at least 2 pictures on each side; got 1 real, 1 made" in said)


def test_a_tensors_name_is_shown_on_one_line(weights, tmp_path):
    with safe_open(weights / "vqgan.safetensors", "pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    save_file(state | {"zz\n\x1b[2J" + 200 * "z": torch.zeros(1)}, tmp_path / "vqgan.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"no place for zz\\n\\x1b\[2Jz{73}$") as raised:
        VQGAN.from_pretrained(tmp_path)
    assert str(raised.value).isprintable()


def test_a_picture_that_cannot_be_read_changes_no_other(weights, cats, tmp_path):
    images, masks = cats
    assert run(weights, images, masks, tmp_path / "whole") == 0
    (images / "cat_0.png").write_bytes(b"")
    assert run(weights, images, masks, tmp_path / "rest") == 1
    whole = contents(tmp_path / "whole")
    del whole["cat_0.png"]
    assert contents(tmp_path / "rest") == whole


def test_pictures_in_folders_below_are_told(weights, cats, tmp_path, capsys):
    images, masks = cats
    (images / "more").mkdir()
    (images / "cat_0.png").rename(images / "more" / "cat_0.png")
    assert run(weights, images, masks, tmp_path / "out") == 0
    assert "1 more in folders below" in sentence(capsys)


def test_fid_crops_the_real_pictures_as_inpaint_does(weights, tmp_path, capsys):
    for name in ("real", "masks"): (tmp_path / name).mkdir()
    for i in range(3):
        to_picture(drawn_cats(3, size=40)[i]).resize((50, 40)).save(tmp_path / "real" / f"{i}.png")
        Image.fromarray(np.pad(KNOWN, ((12, 12), (17, 17)), constant_values=True)).save(tmp_path / "masks" / f"{i}.png")
    assert run(weights, tmp_path / "real", tmp_path / "masks", tmp_path / "made", "--resize") == 0
    ask = ["--device", "cpu", "fid", str(tmp_path / "real"), str(tmp_path / "made"), "--hole", str(tmp_path / "masks"),
           "--network", "random"]
    capsys.readouterr()
    assert main(ask) == 1
    said = capsys.readouterr().err
    assert "real have 50x40, made 16x16" in said and "--resize" in said
    assert main([*ask, "--resize"]) == 0
    assert "hole_psnr" in capsys.readouterr().out


def test_results_and_masks_below_the_pictures_are_not_told(weights, cats, tmp_path, capsys):
    images, masks = cats
    masks.rename(images / "masks")
    for _ in range(2): assert run(weights, images, images / "masks", images / "mended", "--frames") == 0
    assert "maskgit-nb: " not in capsys.readouterr().err


def test_a_mask_of_one_picture_s_own_name_is_of_no_other():
    pictures = [Path("cat.png"), Path("cat_mask.png"), Path("A.png"), Path("a.png")]
    find = partner_finder(pictures, [Path("m/cat.png"), Path("m/a.png")], "mask")
    assert [find(pictures[i]).name for i in (0, 3)] == ["cat.png", "a.png"]
    for i in (1, 2):
        with pytest.raises(FileNotFoundError, match="0 masks"): find(pictures[i])


def test_a_hole_outside_of_what_resize_keeps_is_told_as_such(weights, tmp_path, capsys):
    to_picture(drawn_cats(1, size=40)[0]).resize((80, 40)).save(tmp_path / "cat.png")
    Image.fromarray(np.pad(np.zeros((40, 10), bool), ((0, 0), (0, 70)), constant_values=True)).save(tmp_path / "m.png")
    assert run(weights, tmp_path / "cat.png", tmp_path / "m.png", tmp_path / "out", "--resize") == 0
    assert "outside the middle square" in sentence(capsys)
