"""Run notebooks in place, in order, and write into their first cells how long they took.

usage: run_notebooks.py NOTEBOOK...

The times stay in nbs/results/run_times.json, one for this kind of machine, one for a GPU; a time that is within a third
of the recorded one leaves it.
"""
import json
import os
import platform
import re
import sys
import time
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

from maskgit_nb.files import replacing, save_text

TIMES = Path(__file__).parents[1] / "nbs" / "results" / "run_times.json"
GPU = torch.cuda.get_device_name() if torch.cuda.is_available() else None


def time_line(times: dict) -> str:
    "What a lesson says of the time that its cells take; on a GPU only where it was measured."
    parts = [f"{times['cpu']:.0f} s on {times.get('cores', 2)} CPU cores"] if times.get("cpu") else []
    if times.get("gpu"): parts.append(f"on one GPU: {times['gpu']:.0f} s")
    return f"Running time: {'; '.join(parts)}."


def run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    NotebookClient(notebook, timeout=600, kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=ERROR"],
                   resources={"metadata": {"path": path.parent}}).execute()
    took, kind = time.perf_counter() - start, "gpu" if GPU else "cpu"
    recorded = json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.exists() else {}
    times = recorded.setdefault(path.stem, {})
    if abs(took - times.get(kind, 0)) > times.get(kind, 0) / 3:
        times |= {kind: round(took, 1)} | ({"gpu_name": GPU} if GPU
                                           else {"cores": os.cpu_count(), "machine": platform.machine(),
                                                 "torch": torch.__version__})
        save_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n", TIMES)
    notebook.cells[0].source = re.sub(r"Running time: [^.]*\.", time_line(times), notebook.cells[0].source, count=1)
    with replacing(path) as partial: nbformat.write(notebook, partial)
    print(f"{path.stem}: {took:.0f} s", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:]: run(Path(name))
