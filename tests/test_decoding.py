"Masks, schedules and decoding at the edges of what they take."
import itertools
import math
from unittest.mock import patch

import pytest
import torch
from conftest import TRANSFORMER_CONFIG, in_double
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from maskgit_nb.cats import drawn_cats
from maskgit_nb.decoding import ORDERS, decided_at, decode, predict, show_steps, token_picture
from maskgit_nb.images import random_holes
from maskgit_nb.inpainting import EVIDENCE, MaskGIT, hole_to_mask, visible_evidence
from maskgit_nb.masking import bernoulli_mask
from maskgit_nb.schedules import get_schedule, mask_counts, masked_share
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig, flops_per_pass


def babbling(codes: int = 8) -> nn.Embedding:
    "A transformer that turns each token into random logits."
    network = nn.Embedding.from_pretrained(torch.randn(codes + 1, codes, generator=torch.Generator().manual_seed(0)))
    network.mask_token_id = codes
    return network


TOKENS = torch.randint(8, (5, 16), generator=torch.Generator().manual_seed(1))
UNKNOWN = torch.rand(5, 16, generator=torch.Generator().manual_seed(2)) < 0.7


def test_a_coin_with_one_side():
    assert bernoulli_mask(2, 5, p=1.0).all() and not bernoulli_mask(2, 5, p=0.0).any()


def test_a_schedule_may_return_any_number():
    assert masked_share(lambda r: torch.tensor(0.25), 0.5) == 0.25
    assert masked_share(lambda r: -1e-9, 0.5) == 0.0 and masked_share(lambda r: 1 + 1e-9, 0.5) == 1.0


@pytest.mark.parametrize("value", [2.0, -0.1, math.nan])
def test_a_share_that_is_none(value):
    with pytest.raises(ValueError, match=r"within \[0,1\]"): masked_share(lambda r: value, 0.5)


@pytest.mark.parametrize("value", [None, "half", [0.5, 0.5], torch.ones(2)])
def test_a_share_that_is_no_number(value):
    with pytest.raises(ValueError, match="must return a number"): masked_share(lambda r: value, 0.5)


def test_no_schedule_at_all():
    with pytest.raises(ValueError, match="got None"): get_schedule(None)


def test_one_step_leaves_nothing():
    assert mask_counts("linear", 256, 1) == [0]


@pytest.mark.parametrize("option, value, word", [
    ("order", "spiral", "order must be one of"), ("confidence", "logit", "confidence must be one of"),
    ("steps", 0, "steps must be"), ("schedule", "cosin", "schedule must be one of"),
    ("temperature", -1, "temperature must not be negative"),
    ("sampling_temperature", -1, "sampling_temperature must not be negative"), ("top_k", 0, "top_k must be at least 1"),
    ("top_p", 1.5, "top_p must be within"), ("sweet_spot", 0, "sweet_spot must be"),
    ("logit_bias", torch.zeros(5, 9, 8), "logit_bias must be")])
def test_decode_refuses_at_the_call(option, value, word):
    "Not at the first step, which may be asked for far away."
    with pytest.raises(ValueError, match=word): decode(babbling(), TOKENS, UNKNOWN, **{option: value})


def test_halton_needs_a_square_grid_at_the_call():
    with pytest.raises(ValueError, match="square number; got 15"):
        decode(babbling(), TOKENS[:, :15], UNKNOWN[:, :15], order="halton")


@pytest.mark.parametrize("order", ["confidence", "halton", "random"])
def test_a_trace_says_when_each_token_was_decided(order):
    trace = list(decode(babbling(), TOKENS, UNKNOWN, steps=4, order=order, generator=torch.Generator().manual_seed(3)))
    decided = decided_at(trace)
    assert torch.equal(decided == 0, ~UNKNOWN)
    for step in trace: assert torch.equal(decided > step.number, step.mask)
    assert decided_at(trace[:2]).max() == 3


def test_a_trace_as_a_figure():
    Text = pytest.importorskip("matplotlib.text").Text
    trace = list(decode(babbling(), TOKENS, UNKNOWN, steps=3, generator=torch.Generator().manual_seed(3)))
    figure = show_steps(trace, index=1)
    left = [UNKNOWN[1].sum().item(), *(step.counts[1].item() for step in trace)]
    words = {text.get_text().replace("\u00a0", " ") for text in figure.findobj(Text)}
    assert {f"{name}: {n} left" for name, n in zip(["start", "step 1", "step 2", "step 3"], left, strict=True)} <= words
    assert token_picture(decided_at(trace)[1], 3, 8).shape == (3, 8, 8)


# --- the logits of masked tokens alone

class AllLogits(nn.Module):
    "A transformer without the option `only`, as others have them."
    def __init__(self, transformer: BidirectionalTransformer):
        super().__init__()
        self.transformer, self.mask_token_id = transformer, transformer.mask_token_id

    def forward(self, tokens: torch.Tensor) -> torch.Tensor: return self.transformer(tokens)


def holed(batch: int, config: TransformerConfig, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    "Tokens and masks of very different sizes, one of them empty and, in a large batch, one full."
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(batch, 1, generator=generator)
    shares[0], shares[2:3] = (0, 1) if batch > 2 else (0.5, 1)
    tokens = torch.randint(config.codebook_size, (batch, config.num_tokens), generator=generator)
    return tokens, torch.rand(tokens.shape, generator=generator) < shares


@pytest.mark.parametrize("layers, norm_first, position_bias, local, code_dim",
                         itertools.product([1, 3], [True, False], [True, False], [True, False], [0, 8]))
def test_logits_of_masked_tokens_alone_are_those_among_all(layers, norm_first, position_bias, local, code_dim):
    "Every kind of network, in float64: the same numbers, the same tokens, in a batch or one by one."
    config = TransformerConfig(16, 24, 16, layers, 2, 32, 0.1, code_dim, local, norm_first, position_bias)
    with in_double():
        torch.manual_seed(0)
        model = BidirectionalTransformer(config, torch.randn(24, 8) if code_dim else None).requires_grad_(False)
        for p in model.parameters(): nn.init.normal_(p, std=0.3)
        for batch, order in itertools.product((1, 5, 11), ORDERS):
            tokens, mask = holed(batch, config, batch)
            gaps = tokens.masked_fill(mask, model.mask_token_id)
            right = predict(model, gaps)[mask]
            assert torch.allclose(predict(model, gaps, only=mask), right, rtol=0, atol=1e-12)
            assert torch.equal(predict(AllLogits(model), gaps, only=mask), right)
            traces = [list(decode(network, tokens, mask, 5, order=order, generator=torch.Generator().manual_seed(7)))
                      for network in (model, AllLogits(model))]
            for one, two in zip(*traces, strict=True):
                assert torch.equal(one.tokens, two.tokens) and torch.equal(one.mask, two.mask)
            generator = torch.Generator().manual_seed(7)
            for row in range(batch):
                *_, last = [None, *decode(model, tokens[row:row + 1], mask[row:row + 1], 5, order=order,
                                          generator=generator)]
                assert torch.equal(tokens[row] if last is None else last.tokens[0], traces[0][-1].tokens[row])


def test_logits_of_no_token_at_all(maskgit):
    tokens, mask = torch.zeros(3, 16, dtype=torch.long), torch.zeros(3, 16, dtype=torch.bool)
    assert maskgit.transformer(tokens, only=mask).shape == (0, TRANSFORMER_CONFIG.codebook_size)


def test_the_shipped_network_mends_as_if_all_logits_were_computed():
    model = MaskGIT.from_pretrained("cats64-small").requires_grad_(False)
    cats, holes = drawn_cats(3, seed=3), random_holes(3, generator=torch.Generator().manual_seed(3))
    tokens, mask = model.vqgan.encode(cats), hole_to_mask(holes)
    gaps = tokens.masked_fill(mask, model.transformer.mask_token_id)
    everywhere = predict(model.transformer, gaps)
    assert (predict(model.transformer, gaps, only=mask) - everywhere[mask]).abs().max() < 1e-5 * everywhere.abs().max()
    with in_double():
        model.double()
        cats = cats.double()
        made = [list(decode(network, tokens, mask, generator=torch.Generator().manual_seed(1)))[-1].tokens
                for network in (model.transformer, AllLogits(model.transformer))]
    assert torch.equal(*made)


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_what_is_saved_is_what_torch_counts(name):
    config = TransformerConfig.preset(name)
    model, tokens = BidirectionalTransformer(config).eval(), torch.zeros(1, 256, dtype=torch.long)
    counts = []
    for asked in (256, 76):
        with FlopCounterMode(display=False) as counter: model(tokens, only=torch.arange(256)[None] < asked)
        counts.append(counter.get_total_flops())
    assert counts[0] - counts[1] == flops_per_pass(config) - flops_per_pass(config, only=76) > 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_scripted_transformer_does_not_tell_its_options():
    scripted = torch.jit.trace(babbling(), TOKENS)
    assert torch.equal(predict(scripted, TOKENS, only=UNKNOWN), babbling()(TOKENS)[UNKNOWN])


def test_inpainting_encodes_once_and_bit_for_bit_as_twice(maskgit):
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    holes = random_holes(3, 16, torch.Generator().manual_seed(0))

    def twice(vqgan, filled, holes, weight, latents): return visible_evidence(vqgan, filled, holes, weight)

    def mend() -> torch.Tensor: return maskgit.inpaint(images, holes, generator=torch.Generator().manual_seed(0)).images

    with patch.object(maskgit.vqgan.encoder, "forward", wraps=maskgit.vqgan.encoder.forward) as encoder:
        once = mend()
        assert encoder.call_count == 1
        with patch("maskgit_nb.inpainting.visible_evidence", twice): assert torch.equal(mend(), once)
        assert encoder.call_count == 3 and EVIDENCE > 0
