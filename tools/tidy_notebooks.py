"""Leave notebooks as they are committed: of a widget its still picture only, since views and state differ at every run;
pictures with a palette of 128 colours.

usage: tidy_notebooks.py NOTEBOOK...
"""
import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image
from writing import write_whole

VIEW = "application/vnd.jupyter.widget-view+json"


def with_palette(png: str) -> str:
    "The same picture, base64 PNG, in 128 colours; as it was if it has a palette already or grows."
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P": return png
    small = io.BytesIO()
    picture.convert("RGB").quantize(128, kmeans=1, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    coded = base64.b64encode(small.getvalue()).decode()
    return coded if len(coded) < len(png) else png


def joined(outputs: list) -> list:
    "Outputs with the pieces of one stream put together: into how many they fall depends on the machine's mood."
    whole = []
    for output in outputs:
        if whole and output.output_type == whole[-1].output_type == "stream" and output.name == whole[-1].name:
            whole[-1].text += output.text
        else: whole.append(output)
    return whole


def main() -> None:
    for path in sys.argv[1:]:
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.pop("widgets", None)
        for cell in notebook.cells:
            if cell.cell_type != "code": continue
            cell.outputs = [output
                            for output in cell.outputs if VIEW not in output.get("data", {})
                            or "image/png" in output.data]
            cell.outputs = joined(cell.outputs)
            for output in cell.outputs:
                output.get("data", {}).pop(VIEW, None)
                if "image/png" in output.get("data", {}):
                    output.data.pop("image/jpeg", None)  # the same once more, of Pillow
                    output.data["image/png"] = with_palette(output.data["image/png"]).strip()
        write_whole(Path(path), nbformat.writes(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__": main()
