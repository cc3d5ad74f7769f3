"Keys and values that are kept from step to step: where that is exact, that it computes less, and when it starts anew."
from dataclasses import replace

import pytest
import torch

from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import main
from maskgit_nb.data import load_image
from maskgit_nb.decoding import ORDERS, decode, predict
from maskgit_nb.files import save_png
from maskgit_nb.images import random_holes
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.speed import CachedTransformer, cached, count_flops
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig
from maskgit_nb.vqgan import VQGAN, VQGANConfig

SMALL = TransformerConfig(num_tokens=36, codebook_size=64, dim=32, layers=3, heads=4, hidden=48, dropout=0.1)


def seeded(seed: int) -> torch.Generator: return torch.Generator().manual_seed(seed)


def network(**changes) -> BidirectionalTransformer:
    torch.manual_seed(0)
    made = BidirectionalTransformer(replace(SMALL, **changes), torch.randn(64, 8) if "code_dim" in changes else None)
    for p in made.parameters(): torch.nn.init.normal_(p, std=0.3)  # so that every part matters
    return made


def puzzle(batch: int, share: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(64, (batch, 36), generator=seeded(batch))
    return tokens, torch.rand(batch, 36, generator=seeded(1)) < torch.linspace(0.1, share, batch).unsqueeze(1)


def last_tokens(transformer, tokens, mask, **options):
    return list(decode(transformer, tokens, mask, generator=seeded(0), **options))[-1].tokens


@pytest.mark.parametrize("changes", [dict(), dict(norm_first=False, position_bias=True), dict(code_dim=8)])
@pytest.mark.parametrize("order", ORDERS)
def test_one_block_is_exact(changes: dict, order: str):
    right = network(layers=1, **changes)
    for steps in (1, 3, 8):
        given = puzzle(11, 0.9)
        made = last_tokens(cached(right), *given, steps=steps, order=order)
        assert torch.equal(made, last_tokens(right, *given, steps=steps, order=order))


@pytest.mark.parametrize("changes", [dict(), dict(local=True), dict(norm_first=False)])
def test_what_was_computed_anew_is_exact(changes: dict):
    "A first call, and one in which every token is masked again, which starts anew, give the parent's logits."
    right = network(**changes).eval()
    quick, (tokens, mask) = cached(right), puzzle(5)
    for masked in (mask, torch.ones_like(mask)):
        x = tokens.masked_fill(masked, 64)
        torch.testing.assert_close(quick(x, only=masked), right(x, only=masked), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quick(tokens), right(tokens), rtol=1e-4, atol=1e-4)


def test_without_convolution_only_deeper_keys_are_old():
    "Two blocks: in the second step a known token's keys of the second block are still those of the first step."
    right = network(layers=2).eval()
    quick, (tokens, mask) = cached(right), puzzle(1)
    quick(tokens.masked_fill(mask, 64), only=mask)
    keys = [block[0].clone() for block in quick.kept[0].blocks]
    later = mask & (torch.arange(36) > 20)
    assert later.any() and (mask & ~later).any()
    quick(tokens.masked_fill(later, 64), only=later)
    for old, (new, _) in zip(keys, quick.kept[0].blocks, strict=True): assert torch.equal(old[~mask], new[~mask])
    assert not torch.equal(keys[1][later], quick.kept[0].blocks[1][0][later])


def test_no_more_rows_are_computed_than_the_masked_and_the_changed():
    quick, (tokens, mask) = cached(network().eval()), puzzle(1)
    later = mask & (torch.arange(36) > 20)
    first = count_flops(lambda: quick(tokens.masked_fill(mask, 64), only=mask))
    second = count_flops(lambda: quick(tokens.masked_fill(later, 64), only=later))
    d, k, rows, asked = SMALL.dim, SMALL.codebook_size, int(mask.sum()), (int(mask.sum()), int(later.sum()))
    def flops(rows: int, asked: int) -> int:
        block = 2 * rows * (4 * d * d + 2 * d * SMALL.hidden) + 4 * rows * 36 * d
        return SMALL.layers * block + 2 * asked * (d * d + d * k)
    assert (first, second) == (flops(36, asked[0]), flops(rows, asked[1]))


def test_a_large_batch_is_computed_in_parts_that_each_find_what_they_kept():
    quick, (tokens, mask) = cached(network().eval()), puzzle(19)
    first, second = (count_flops(lambda: predict(quick, tokens.masked_fill(mask, 64), only=mask)) for _ in range(2))
    assert second < first  # the same masked tokens again, and none of the others


def test_neighbours_in_a_batch_change_nothing():
    "Not even by what is computed anew: the second step of 19 pictures, more than the 8 of a part, and of each alone."
    right, (tokens, mask) = network(local=True).eval(), puzzle(19, 0.8)
    later = mask & (torch.arange(36) > 12)
    inputs = tokens.masked_fill(mask, 64), tokens.masked_fill(later, 64)
    def second_step(part: slice) -> torch.Tensor:
        quick = cached(right)
        quick(inputs[0][part], only=mask[part])
        return quick(inputs[1][part], only=later[part])
    together = second_step(slice(None)).split(later.sum(1).tolist())
    for i in range(19): torch.testing.assert_close(second_step(slice(i, i + 1)), together[i], rtol=1e-4, atol=1e-4)
    exact = right(inputs[1], only=later)
    assert (torch.cat(together) - exact).abs().max() > 0.01  # or this test says nothing


def test_a_picture_does_not_depend_on_those_before():
    right = network(local=True).eval()
    quick, (tokens, mask) = cached(right), puzzle(4)
    def mended(hidden: torch.Tensor) -> torch.Tensor: return last_tokens(quick, tokens, hidden, steps=1, temperature=0)
    before, smaller = mended(mask), mask & (torch.arange(36) > 12)
    alone = list(decode(cached(right), tokens, smaller, steps=3, generator=seeded(0)))
    again = list(decode(quick, tokens, smaller, steps=3, generator=seeded(0)))
    for a, b in zip(alone, again, strict=True): assert torch.equal(a.confidence, b.confidence)
    assert torch.equal(mended(mask), before)


def test_tokens_of_another_picture_start_anew():
    "Even if a single known token tells the pictures apart, or the batch has another size."
    right = network(local=True).eval()
    quick, (tokens, mask) = cached(right), puzzle(4)
    quick(tokens.masked_fill(mask, 64), only=mask)
    other, known = tokens.clone(), int((~mask[2]).nonzero()[0])
    other[2, known] = (other[2, known] + 1) % 64
    later = mask & (torch.arange(36) > 12)
    for part in (slice(None), slice(2)):
        x, some = other.masked_fill(later, 64)[part], later[part]
        torch.testing.assert_close(quick(x, only=some), right(x, only=some), rtol=1e-4, atol=1e-4)
        quick(tokens.masked_fill(mask, 64), only=mask)


def test_weights_are_shared_saved_and_found(tmp_path):
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig.preset("tiny"))
    model = MaskGIT(vqgan, BidirectionalTransformer(TransformerConfig.preset("tiny"), vqgan.quantizer.codebook))
    quick = MaskGIT(vqgan, cached(model.transformer))
    assert quick.transformer.bias.data_ptr() == model.transformer.bias.data_ptr()
    quick.save_pretrained(tmp_path)
    found = MaskGIT(vqgan, CachedTransformer.from_pretrained(tmp_path))
    images, holes = drawn_cats(2), random_holes(2, generator=seeded(0))
    made = [m.inpaint(images, holes, steps=3, generator=seeded(0)).tokens for m in (quick, found)]
    assert torch.equal(*made)
    assert type(MaskGIT.from_pretrained(tmp_path).transformer) is BidirectionalTransformer


@pytest.mark.parametrize("options", [["--cached"], ["--precision", "bf16"], ["--cached", "--precision", "bf16"]])
def test_the_command_does_what_the_package_does(weights, tmp_path, options: list[str]):
    model = MaskGIT.from_pretrained(weights)
    if "--cached" in options: model = MaskGIT(model.vqgan, cached(model.transformer))
    images, holes = drawn_cats(3, size=16), random_holes(3, size=16, generator=seeded(0))
    (tmp_path / "given").mkdir(), (tmp_path / "holes").mkdir()
    for i, (image, hole) in enumerate(zip(images, holes, strict=True)):
        save_png(image, tmp_path / "given" / f"{i}.png")
        save_png((~hole).expand(3, -1, -1) * 2.0 - 1, tmp_path / "holes" / f"{i}.png")
    command = ["--device", "cpu", "inpaint", str(tmp_path / "given"), "--hole", str(tmp_path / "holes"), "--out",
               str(tmp_path / "out"), "--weights", str(weights), *options]
    assert main(command) == 0
    read = torch.stack([load_image(tmp_path / "given" / f"{i}.png", 16) for i in range(3)])
    with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in options):
        made = model.inpaint(read, holes, generator=seeded(0)).images
    for i in range(3):
        save_png(made[i], tmp_path / "right.png")
        assert (tmp_path / "right.png").read_bytes() == (tmp_path / "out" / f"{i}.png").read_bytes()


def test_nothing_is_kept_after_a_run(maskgit):
    quick, tokens = cached(maskgit.transformer), torch.zeros(2, 16, dtype=torch.long)
    steps = decode(quick, tokens, tokens == 0, steps=3)
    next(steps)
    assert quick.kept
    assert len([*steps]) == 2 and quick.kept == ()
