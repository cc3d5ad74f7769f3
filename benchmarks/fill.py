"""Take what a finished `benchmarks.gpu` found into the repository. The same call twice changes nothing more.

usage: python -m benchmarks.fill DIR [--weights] [--table nbs/results/val_table.json] [--root FOLDER]

Writes nbs/results/gpu.json (parts that DIR lacks stay as they are); the seconds of the lessons' `gpu` cells into
nbs/results/run_times.json and into the first cell of these lessons; the images per second of training into
nbs/results/throughput.json. `--weights`: the weights and their training.json replace the shipped ones, with what their
README.md says of size, data and training. `--table`: a result of `benchmarks/val_table.py` for that README.
"""
import argparse
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from maskgit_nb.files import replacing, save_text
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.transformer import count_parameters

HEADER = ("command", "seed", "device", "date", "torch")
SHIPPED = Path("maskgit_nb/weights/cats64-small")


def read_parts(folder: Path, rehearsal: bool) -> dict[str, dict]:
    "The parts in `folder` that measured anything, by name. SystemExit if there is none, or an unwanted rehearsal."
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    def measured(part: dict) -> bool: return any(row["ok"] and "skipped" not in row for row in part.get("rows", []))
    parts = {part["part"]: part for part in found if measured(part)}
    if not parts: raise SystemExit(f"{folder} holds no measurements of benchmarks.gpu")
    if not rehearsal and any(part["rehearsal"] for part in parts.values()):
        raise SystemExit(f"{folder} holds a rehearsal, whose numbers mean nothing")
    return parts


def update_json(path: Path, change: Callable[[dict], dict]) -> None:
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    save_text(json.dumps(change(old), indent=1) + "\n", path)


def good_rows(parts: dict, part: str, kind: str) -> list[dict]:
    return [row for row in parts.get(part, {}).get("rows", []) if row["ok"] and row.get("kind") == kind]


def fill_results(root: Path, parts: dict) -> None:
    newest = max(parts.values(), key=lambda part: part["date"])
    lean = {name: {key: value for key, value in part.items() if key != "record"} for name, part in parts.items()}
    def change(old: dict) -> dict: return {key: newest[key] for key in HEADER} | dict(parts=old.get("parts", {}) | lean)
    update_json(root / "nbs/results/gpu.json", change)


# ---- times

def notebook_runner(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebooks", root / "tools" / "run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill_times(root: Path, parts: dict) -> None:
    for row in good_rows(parts, "speed", "lesson"):
        lesson, new, times = row["lesson"], dict(gpu=round(row["total"], 1), gpu_name=parts["speed"]["device"]), {}
        def change(old: dict, lesson=lesson, new=new, times=times) -> dict:
            times |= old[lesson] | new
            return old | {lesson: times}
        update_json(root / "nbs/results/run_times.json", change)
        path, line = root / "nbs" / f"{lesson}.ipynb", notebook_runner(root).time_line(times)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first = notebook["cells"][0]
        first["source"] = [re.sub(r"Running time: [^.]*\.", line, text) for text in first["source"]]
        save_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", path)


def fill_throughput(root: Path, parts: dict) -> None:
    "The best of the ways that were measured for each preset and stage."
    best = {}
    for row in good_rows(parts, "speed", "training"):
        key = row["preset"], row["stage"]
        best[key] = max(best.get(key, 0), row["images_per_second"])
    def change(old: dict) -> dict:
        for row in old["rows"]:
            rate = best.get((row["preset"], row["stage"]))
            if rate: row |= dict(gpu_images_per_second=rate, gpu_name=parts["speed"]["device"])
        return old
    update_json(root / "nbs/results/throughput.json", change)


# ---- weights and their card

def replace_once(pattern: str, new: str, text: str) -> str:
    "`text` with `new` where `pattern` is. SystemExit if the card has no such place, or several."
    text, count = re.subn(pattern, lambda match: new, text, flags=re.DOTALL)
    if count != 1: raise SystemExit(f"the model card has {count} places like {pattern!r}: fit benchmarks/fill.py to it")
    return text


SECTION = """## Training

| stage | images seen | time | device | seed | at the end, on validation pictures |
|---|---|---|---|---|---|
{rows}

```sh
{commands}
```

The curves are in `training.json` beside this card and are drawn in `nbs/10_train_both.ipynb`.
"""
JUDGES = """\
The VQGAN's perceptual loss uses EfficientNet-Lite1; the distances below use EfficientNet-Lite0, a different network \
of the same family and training set,
so they favour this model over one trained on pixels alone.
"""


def training_section(part: dict, codes: int) -> str:
    made = {row["name"]: row for row in part["rows"]}
    first, second = made["vqgan"]["photographs"], made["transformer"]["photographs"]
    ends = {"VQGAN": f"PSNR {first['val_psnr']:.2f} dB, {first['val_perplexity']:.0f} of {codes:,} codes in even use",
            "transformer": f"cross-entropy {second['val_random']:.3f} nats (random masks), "
                           f"{second['val_holes']:.3f} (free-form holes)"}
    runs = dict(zip(ends, (part["record"][stage] for stage in ("vqgan", "transformer")), strict=True))
    row = "| {stage} | {images:,} | {minutes:.0f} minutes | {device} | {seed} | {end} |"
    rows = [row.format(stage=stage, minutes=run["seconds"] / 60, end=ends[stage], **run) for stage, run in runs.items()]
    commands = dict.fromkeys(command for run in runs.values() for command in run["commands"])
    section = SECTION.format(rows="\n".join(rows), commands="\n".join(commands))
    return section + JUDGES if made["vqgan"]["perceptual"] else section


def data_sentence(part: dict) -> str:
    drawn = "drawn anew for each batch by `maskgit_nb.cats.drawn_cats`."
    if not part["photographs"]: return f"Trained on cats {drawn}"
    photographs = f"{part['photographs']:,} photographs of cat faces and their mirror images"
    return f"Trained on {photographs}; half of each batch were cats {drawn}"


def fill_weights(root: Path, folder: Path, part: dict) -> None:
    "The shipped weights, their training.json, and what their card says of size, data and training."
    if set(part.get("record", {})) != {"vqgan", "transformer"}: raise SystemExit(f"{folder} does not hold both stages")
    shipped, card = root / SHIPPED, root / SHIPPED / "README.md"
    stages = "vqgan.safetensors", "transformer.safetensors"
    for name in stages:
        with replacing(shipped / name) as partial: shutil.copyfile(folder / name, partial)
    (shipped / "evidence.safetensors").unlink(missing_ok=True)  # learned for the codes and logits of those before
    print("now train on: python -m benchmarks.evidence, and python -m benchmarks.refine sample and train")
    save_text(json.dumps(part["record"], separators=(",", ":")) + "\n", shipped / "training.json")
    model, size = MaskGIT.from_pretrained(shipped), sum((shipped / name).stat().st_size for name in stages)
    first, second = (f"{count_parameters(stage) / 1e6:.1f} M" for stage in (model.vqgan, model.transformer))
    text = replace_once(r"A VQGAN \([\d.]+ M", f"A VQGAN ({first}", card.read_text(encoding="utf-8"))
    text = replace_once(r"bidirectional transformer \([\d.]+ M", f"bidirectional transformer ({second}", text)
    text = replace_once(r"safetensors, [\d.]+ MB", f"safetensors, {size / 1e6:.1f} MB", text)
    text = replace_once(r"Trained on .*?`maskgit_nb\.cats\.drawn_cats`\.", data_sentence(part), text)
    share = "Half" if part["photographs"] else "All"
    text = replace_once(r"\w+ of the training pictures were", f"{share} of the training pictures were", text)
    text = replace_once(r"## Training\n.*?(?=\n## )", training_section(part, model.vqgan.config.codebook_size), text)
    save_text(text, card)


def fill_table(root: Path, table: Path) -> None:
    "The card's table of results, from a file that `benchmarks/val_table.py` wrote."
    card, found = root / SHIPPED / "README.md", json.loads(table.read_text(encoding="utf-8"))
    rows = ["| {name} | {fd:.2f} | {kid:.2f} | {hole_psnr:.2f} |\n".format(**row) for row in found["rows"]]
    text = replace_once(r"(?<=\n\|---\|---\|---\|---\|\n)(\|[^\n]*\n)+", "".join(rows),
                        card.read_text(encoding="utf-8"))
    options = json.dumps(found["options"])
    text = replace_once(r"\d+(?= validation pictures with the lab's)", str(found["images"]), text)
    save_text(replace_once(r"options `[^`]*`, [\d-]+:", f"options `{options}`, {found['date']}:", text), card)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what --out of benchmarks.gpu was")
    parser.add_argument("--weights", action="store_true", help="ship these weights")
    parser.add_argument("--table", type=Path, help="a result of benchmarks/val_table.py, for the model card")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the repository, by default this")
    parser.add_argument("--rehearsal", action="store_true", help="take a rehearsal, to try this programme on a copy")
    args = parser.parse_args(argv)
    parts = read_parts(args.folder, args.rehearsal)
    fill_results(args.root, parts)
    fill_times(args.root, parts)
    fill_throughput(args.root, parts)
    if args.weights: fill_weights(args.root, args.folder, parts.get("weights", {}))
    if args.table: fill_table(args.root, args.table)


if __name__ == "__main__":
    main()
