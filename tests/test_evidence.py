"The programme that trains the network of the visible pixels."
import argparse
import json
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from benchmarks import evidence as programme
from maskgit_nb.cats import drawn_cats
from maskgit_nb.decoding import predict
from maskgit_nb.images import random_holes, to_picture
from maskgit_nb.inpainting import Evidence, MaskGIT, hole_to_mask, smooth_fill, visible_evidence


@pytest.fixture
def pictures(tmp_path):
    "A folder of eight drawn cats."
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, cat in enumerate(drawn_cats(8, 3)): to_picture(cat).save(folder / f"{i}.png")
    return folder


def run(monkeypatch, *words) -> None:
    monkeypatch.setattr("sys.argv", ["evidence", *map(str, words)])
    programme.main()


def test_a_training_that_was_stopped_goes_on_and_learns(monkeypatch, pictures, tmp_path):
    out = tmp_path / "run"
    for steps in (3, 12):
        run(monkeypatch, "--data", pictures, "--val", pictures, "--out", out, "--steps", steps, "--batch-size", 4)
    record = json.loads((out / "evidence.json").read_text(encoding="utf-8"))
    assert [(part["first"], part["last"], part["images"]) for part in record["runs"]] == [(0, 3, 12), (3, 12, 36)]
    (early, _, *before), (late, _, *after) = record["curve"]
    assert (early, late) == (3, 12) and len(record["columns"]) == 8
    table = [dict(zip(record["columns"][2:], row, strict=True)) for row in (before, after)]
    for holes in ("free-form", "mixed"):
        assert table[1][f"{holes}, learned"] < table[0][f"{holes}, learned"] < table[0][f"{holes}, none"] + 0.01
        assert table[0][f"{holes}, none"] == table[1][f"{holes}, none"]  # the transformer stood still
        assert table[0][f"{holes}, formula"] < table[0][f"{holes}, none"]
    assert Evidence.from_pretrained(out).bias.any()
    kept = torch.load(out / "state.pt", weights_only=True)
    assert {float(state["step"]) for state in kept["parts"][2]["state"].values()} == {12.0}  # the optimizer's, too
    run(monkeypatch, "--data", pictures, "--out", tmp_path / "next", "--steps", 1, "--batch-size", 4, "--begin", out,
        "--seed", 1)
    begun, learned = (Evidence.from_pretrained(folder).scores.weight for folder in (out, tmp_path / "next"))
    assert begun.abs().max() > 1e-4
    torch.testing.assert_close(begun, learned, atol=3e-5, rtol=1e-3)  # one step, of 2e-5


def test_the_loss_is_the_sums_where_tokens_are_masked():
    "By hand, in float32: known tokens are what the encoder sees of the filled picture, decided ones are true."
    model, images = MaskGIT.from_pretrained("cats64-small"), drawn_cats(2, 5)
    holes = random_holes(2, 64, torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        evidence = Evidence()
        torch.nn.init.normal_(evidence.scores.weight, std=0.03)
    hidden, filled = hole_to_mask(holes), smooth_fill(images, holes)
    mask = hidden & (torch.rand(2, 256, generator=torch.Generator().manual_seed(1)) < 0.5)
    with torch.no_grad():
        true, seen, z = model.vqgan.encode(images), model.vqgan.encode(filled), model.vqgan.latents(filled)
        assert (true != seen)[hidden & ~mask].any() and (true != seen)[~hidden].any()
        logits = predict(model.transformer, torch.where(hidden, true, seen).masked_fill(mask, 1024))
        said = evidence(model.vqgan, filled, holes, z), visible_evidence(model.vqgan, filled, holes, 9.0)
        right = [F.cross_entropy((logits + bias)[mask], true[mask]).item() for bias in said]
        with patch.object(model.transformer, "embed", side_effect=model.transformer.embed) as heard:
            found = programme.losses(model, evidence, images, holes, mask, [9.0])
        wrong = predict(model.transformer, seen.masked_fill(mask, 1024))
        wrong = F.cross_entropy((wrong + said[0])[mask], true[mask]).item()
    assert [loss.item() for loss in found] == pytest.approx(right, abs=0.02)  # bfloat16 keeps 8 bits of some 10
    assert abs(wrong - right[0]) > 0.04
    spoilt, tokens = (true != seen) & ~hidden, heard.call_args.args[0]
    assert (tokens == seen)[spoilt].float().mean() > 0.8 and (tokens == 1024).equal(mask)


def test_a_batch_has_its_share_of_drawn_cats_and_masks_within_its_holes():
    photographs, args = torch.full((5, 3, 64, 64), 7, dtype=torch.uint8), argparse.Namespace(batch_size=8)
    for share, drawn in ((0.25, 2), (0.0, 0), (1.0, 8)):
        args.drawn = share
        images, holes, mask = programme.draw(photographs, args, torch.Generator().manual_seed(0))
        assert (images == 7 / 127.5 - 1).flatten(1).all(1).tolist() == [True] * (8 - drawn) + [False] * drawn
        assert not (mask & ~hole_to_mask(holes)).any() and mask.any(1).all() and (hole_to_mask(holes) & ~mask).any()
