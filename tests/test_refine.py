"The programme that trains the refiner, with means of patches in place of a classifier's features."
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import refine
from maskgit_nb.cats import drawn_cats
from maskgit_nb.images import random_holes, to_uint8
from maskgit_nb.inpainting import Refiner, harmonic_fill


class Patches(nn.Module):
    "Stands in for `PerceptualLoss`."
    def __init__(self, size: int = 96): super().__init__()
    def features(self, x): return [F.normalize(F.avg_pool2d(x, n).float(), dim=1) for n in (2, 8)]


def run(monkeypatch, *words) -> None:
    monkeypatch.setattr(refine, "PerceptualLoss", Patches)
    monkeypatch.setattr("sys.argv", ["refine", *map(str, words)])
    refine.main()


@pytest.fixture
def shards(tmp_path):
    "A folder with eight pictures of each kind, mended smoothly."
    for i, kind in enumerate(("photo", "drawn")):
        images, holes = drawn_cats(8, i), random_holes(8, 64, torch.Generator().manual_seed(i))
        torch.save((to_uint8(images), to_uint8(harmonic_fill(images, holes)), holes), tmp_path / f"{kind}-000.pt")
    return tmp_path


def test_a_training_that_was_stopped_goes_on(monkeypatch, shards, tmp_path):
    out = tmp_path / "run"
    for steps in (2, 5): run(monkeypatch, "train", "--data", shards, "--out", out, "--steps", steps, "--batch-size", 4)
    record = json.loads((out / "refine.json").read_text(encoding="utf-8"))
    assert [row[0] for row in record["curve"]] == [2, 5] and record["pictures"] == dict(photo=8, drawn=8)
    assert [(part["first"], part["last"], part["images"]) for part in record["runs"]] == [(0, 2, 8), (2, 5, 12)]
    assert all(torch.tensor(row).isfinite().all() for row in record["curve"])
    real, mended, holes = refine.draw(refine.open_shards(shards), 4, torch.Generator().manual_seed(0))
    refined = Refiner.from_pretrained(out)(mended, holes).detach()
    assert torch.equal(refined.masked_fill(holes, 0), real.masked_fill(holes, 0)) and not torch.equal(refined, mended)


def test_a_training_begins_with_a_refiner_deepened(monkeypatch, shards, tmp_path):
    shipped, real = Refiner.from_pretrained("cats64-small"), drawn_cats(2, 0)
    holes = random_holes(2, 64, torch.Generator().manual_seed(0))
    blocks = shipped.config.blocks + 2
    with torch.no_grad():
        deep = refine.deepen(shipped, blocks)
        assert torch.equal(deep(real, holes), shipped(real, holes)) and deep.config.blocks == blocks
    with pytest.raises(SystemExit, match="at least"): refine.deepen(shipped, shipped.config.blocks - 1)
    run(monkeypatch, "train", "--data", shards, "--out", tmp_path / "run", "--steps", 2, "--batch-size", 4,
        "--begin", "cats64-small", "--blocks", blocks)
    learned = Refiner.from_pretrained(tmp_path / "run")
    assert learned.config.blocks == blocks and learned.layers[-5].block[-1].weight.any()  # the new ones learn, too


def test_training_without_pictures_says_how_to_make_them(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="refine sample"):
        run(monkeypatch, "train", "--data", tmp_path, "--out", tmp_path / "run")


def test_the_discriminator_is_asked_where_a_hole_is():
    holes = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    holes[..., :4] = True
    features = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    first, (scores, share) = refine.FeatureDiscriminator([3, 3])([features] * 2, holes)
    assert share.flatten().tolist() == [1, 0, 1, 0] and first[0].shape == first[1].shape == (1, 1, 1, 1)
    torch.testing.assert_close(refine.in_holes([(scores, share)]), scores[..., 0].mean())


def test_samples_are_mended_in_their_holes_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(refine, "FEW", 2)
    monkeypatch.setattr(refine, "SHARD", 2)
    run(monkeypatch, "sample", "--data", "drawn", "--out", tmp_path, "--shards", 1)
    real, mended, holes = torch.load(tmp_path / "drawn-000.pt", weights_only=True)
    assert real.shape == mended.shape == (4, 3, 64, 64) and holes.shape == (4, 1, 64, 64)
    assert torch.equal(real.masked_fill(holes, 0), mended.masked_fill(holes, 0))
    assert all((real[i] != mended[i]).any() for i in range(4))
