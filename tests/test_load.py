"""What grows with the number of pictures. `benchmarks/load.py` measures the same at 100,000 of them."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # where benchmarks/ lies

MOST_EACH = 400  # bytes a picture: a path and a share that are kept to the end take 250, the picture itself 3,840


def mend_in(folder: str) -> None:
    "A folder of pictures mended, and the megabytes held after every hundred of them."
    import torch

    from benchmarks.load import mend, prepare
    torch.set_num_threads(1)
    prepare(Path(folder), 1200)
    rows = mend(Path(folder), seed=0, every=100)
    (Path(folder) / "rows.txt").write_text("\n".join(str(row["megabytes"]) for row in rows), encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory that is held from /proc")
def test_memory_is_flat_while_a_folder_is_mended(processes, tmp_path):
    process = processes.Process(target=mend_in, args=(str(tmp_path),))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    held = [float(line) for line in (tmp_path / "rows.txt").read_text(encoding="utf-8").splitlines()]
    assert len(held) == 12
    # 900 pictures more; one batch of 64 more or less may be in the hands of the allocator
    assert max(held[3:]) - held[2] <= 900 * MOST_EACH / 1e6 + 2
