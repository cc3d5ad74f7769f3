"Masks, schedules and decoding at the edges of what they take."
import math

import pytest
import torch
from torch import nn

from maskgit_nb.decoding import decided_at, decode, show_steps, token_picture
from maskgit_nb.masking import bernoulli_mask
from maskgit_nb.schedules import get_schedule, mask_counts, masked_share


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
