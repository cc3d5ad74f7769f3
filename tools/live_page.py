"""The live page: networks, scripts and onnxruntime-web in a folder that any web server can serve, without Python.

usage: live_page.py [--weights NAME] [--int8] [--out FOLDER]
"""
import argparse
import base64
import gzip
import hashlib
import json
import os
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent / "site" / "live"
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE.parents[1]))
from writing import check_folder, digest, write_files, write_whole  # noqa: E402

RUNTIME = "onnxruntime-web", "1.30.0"
RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # npm's own
SCRIPTS = {"ort.js": "ort.wasm.bundle.min.mjs", "ort.gpu.js": "ort.jspi.bundle.min.mjs"}
PROGRAM, GPU_PROGRAM = "ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.jspi.wasm"  # 14 and 17 MB
LOADED = "encoder.onnx", "transformer.onnx", "decoder.onnx", "codebook.bin", "config.json", PROGRAM + ".gz"
CACHE = ROOT / "build" / "live"


def runtime() -> dict[str, bytes]:
    "The files of onnxruntime-web that the page needs, from npm; kept in build/. OSError says what failed."
    name, version = RUNTIME
    kept = CACHE / f"{name}-{version}.tgz"
    if not kept.exists():
        registry = os.environ.get("npm_config_registry", "https://registry.npmjs.org/").rstrip("/")
        with urllib.request.urlopen(f"{registry}/{name}/-/{kept.name}", timeout=120) as answer: packed = answer.read()
        if base64.b64encode(hashlib.sha512(packed).digest()).decode() != RUNTIME_SHA512:
            raise OSError(f"{kept.name} from {registry} is not the file that npm names: its SHA-512 differs")
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, packed)
    with tarfile.open(kept) as archive:
        def read(file: str) -> bytes: return archive.extractfile(f"package/dist/{file}").read()
        programs = {f"{file}.gz": gzip.compress(read(file), mtime=0) for file in (PROGRAM, GPU_PROGRAM)}  # a quarter
        return programs | {name: read(file) for name, file in SCRIPTS.items()}


def networks(weights: str, int8: bool) -> dict[str, bytes]:
    "What `export_onnx` writes, kept in build/ for as long as weights and exporter stay as they are."
    from maskgit_nb import MaskGIT, live
    from maskgit_nb.data import fingerprint
    model = MaskGIT.from_pretrained(weights)
    key = digest(Path(live.__file__).read_bytes())[:12]
    kept = CACHE / f"{fingerprint(model.state_dict())}-{key}-{'int8' if int8 else 'float'}"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            live.export_onnx(model, Path(folder) / "made", int8)
            if not kept.exists(): (Path(folder) / "made").rename(kept)
    return {path.name: path.read_bytes() for path in kept.iterdir()}


def starting_points(config: dict) -> dict:
    "The pictures and holes that a visitor can begin with: a CC0 photograph, drawn cats, free-form holes."
    import skimage
    import torch
    from PIL import Image

    from maskgit_nb import drawn_cats, random_holes
    from maskgit_nb.data import square_crop
    from maskgit_nb.images import to_tensor
    from maskgit_nb.widgets import pack_hole, png_url
    size = config["image_size"]
    photograph = to_tensor(square_crop(Image.fromarray(skimage.data.cat()[:, 100:400]), size))
    drawn = drawn_cats(5, 3, size)
    pictures = [dict(name="a cat, a CC0 photograph", png=png_url(photograph))]
    pictures += [dict(name=f"drawn cat {i}", png=png_url(x)) for i, x in enumerate(drawn, 1)]
    holes = random_holes(12, size, torch.Generator().manual_seed(1))
    return dict(size=size, pictures=pictures, holes=[pack_hole(hole) for hole in holes])


def widget(name: str) -> str:
    "A widget of the lessons as a module that says what it has."
    from maskgit_nb.widgets import static_text
    return static_text("common.js", name).replace("export default { render }", (
        "export { render, button, element, range, send, standalone, told }"))


def page(body: str) -> str:
    "The page by itself, where it is not one of the course's site."
    style = "body { font: 16px/1.5 system-ui, sans-serif; margin: 1em auto; max-width: 60em; padding: 0 1em }"
    return (f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>MaskGIT, live</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<link rel="icon" href="data:,">\n'
            f"<style>:root {{ color-scheme: light dark }} {style}</style>\n<body>\n{body}\n</body>\n</html>\n")


def contents(weights: str = "cats64-small", int8: bool = False) -> dict[str, str | bytes]:
    "All files by name."
    from maskgit_nb.widgets import static_text
    made = {**networks(weights, int8), **runtime()}
    gpu = f"{GPU_PROGRAM}.gz"
    version = digest("".join(digest(made[name]) for name in (*LOADED, gpu)))[:12]
    made["files.json"] = json.dumps(dict(version=version, bytes={name: len(made[name]) for name in LOADED}, gpu=gpu))
    made["start.json"] = json.dumps(starting_points(json.loads(made["config.json"])))
    for path in sorted(HERE.glob("*.js")): made[path.name] = path.read_bytes()
    made["brush.js"], made["scrubber.js"] = widget("brush.js"), widget("scrubber.js")
    made["live.css"] = static_text("widgets.css") + (HERE / "live.css").read_text(encoding="utf-8")
    return made


def body(folder: str = "") -> str:
    "What stands in the page, with the folder in which the other files lie."
    return (HERE / "body.html").read_text(encoding="utf-8").replace("{folder}", folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the live page.")
    parser.add_argument("--weights", default="cats64-small", help="shipped name, folder or Hub id")
    parser.add_argument("--int8", action="store_true", help="the transformer in eight bits: fewer bytes, other numbers")
    parser.add_argument("--out", type=Path, default=ROOT / "live", help="where it goes (default: live/)")
    args = parser.parse_args()
    try:
        check_folder(args.out)
        files = contents(args.weights, args.int8)
        args.out.mkdir(parents=True, exist_ok=True)
        write_files(args.out, files | {"index.html": page("<h1>MaskGIT, live</h1>\n" + body())})
    except (OSError, ValueError, ImportError) as error: sys.exit(f"error: {error}")
    size = sum(len(content) for content in files.values())
    print(f"{args.out}: {size / 1e6:.1f} MB; to try it: python -m http.server -d {args.out}")


if __name__ == "__main__": main()
