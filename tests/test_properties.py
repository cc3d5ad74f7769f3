"What must hold for any input: invariants over many drawn cases."
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from conftest import in_double, tiny_maskgit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from maskgit_nb.attention import MultiHeadAttention, scaled_dot_product
from maskgit_nb.cats import drawn_cats
from maskgit_nb.data import EndlessBatches, find_pictures, find_split, load_hole, load_image
from maskgit_nb.decoding import CONFIDENCES, ORDERS, Draws, decode, filter_logits, halton_order, sample_tokens
from maskgit_nb.files import save_module
from maskgit_nb.images import box_holes, random_holes, to_picture, to_tensor, to_uint8
from maskgit_nb.inpainting import (
    FILLS,
    MaskGIT,
    composite,
    grey_fill,
    harmonic_fill,
    hole_to_mask,
    poisson_blend,
    smooth_fill,
    step_images,
    visible_evidence,
)
from maskgit_nb.masking import bernoulli_mask, keep_lowest, mask_to_hole, mvtm_loss, random_mask
from maskgit_nb.schedules import SCHEDULES, mask_counts
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig
from maskgit_nb.vqgan import VQGAN

seeds = st.integers(0, 2**31)


def seeded(seed: int) -> torch.Generator: return torch.Generator().manual_seed(seed)


def same_bits(a: Tensor, b: Tensor) -> bool:
    "Equal to the last bit: tells -0.0 from 0.0, and NaN equals NaN."
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


# --- schedules

@st.composite
def any_schedule(draw):
    "A schedule by name, or any callable into [0,1]: here a staircase of drawn heights, falling or not."
    heights = draw(st.none() | st.lists(st.floats(0, 1), min_size=1, max_size=6))
    if heights is None: return draw(st.sampled_from(sorted(SCHEDULES)))
    return lambda r: heights[min(int(r * len(heights)), len(heights) - 1)]


@given(any_schedule(), st.integers(0, 300), st.integers(1, 40))
@settings(max_examples=300)
def test_counts_fall_strictly_to_zero(schedule, n, steps):
    counts = mask_counts(schedule, n, steps)
    assert len(counts) == steps and counts[-1] == 0 and all(type(count) is int for count in counts)
    for before, after in itertools.pairwise([n, *counts]): assert 0 <= after < before or before == after == 0
    revealed = [before - after for before, after in itertools.pairwise([n, *counts])]
    assert sum(revealed) == n
    if n >= steps: assert min(revealed) >= 1  # every step has work


@pytest.mark.parametrize("name", SCHEDULES)
def test_counts_follow_gamma(name):
    n, steps = 10_000, 7
    for t, count in enumerate(mask_counts(name, n, steps), 1): assert abs(count - SCHEDULES[name](t / steps) * n) <= 1


POWERS = {"linear": 1, "square": 2, "cubic": 3}  # 1 - r^a, which fractions know exactly


@pytest.mark.parametrize("name", POWERS)
@given(n=st.integers(0, 400), steps=st.integers(1, 40))
def test_counts_are_those_of_exact_arithmetic(name, n, steps):
    "floor(gamma(t/steps) n), but at least a token a step while there are any, and one left for each step that follows."
    expected, left = [], n
    for t in range(1, steps + 1):
        wanted = math.floor((1 - Fraction(t, steps) ** POWERS[name]) * n)
        left = max(0, min(left - 1, max(wanted, steps - t)))
        expected.append(left)
    assert mask_counts(name, n, steps) == expected


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), seeds)
def test_a_mask_covers_the_pixels_of_its_tokens(batch, side, cell, seed):
    mask = torch.rand(batch, side**2, generator=seeded(seed)) < 0.5
    hole = mask_to_hole(mask, side * cell)
    assert hole.shape == (batch, 1, side * cell, side * cell) and hole.dtype == torch.bool
    for row in range(side * cell):
        for column in range(side * cell):
            assert torch.equal(hole[:, 0, row, column], mask[:, row // cell * side + column // cell])


def test_the_defaults_are_those_of_the_kit():
    "64x64 pixels, 16x16 tokens."
    ratio = torch.tensor([0.5, 1.0])
    mask = random_mask(ratio, generator=seeded(0))
    assert mask.sum(1).tolist() == [128, 256]
    assert mask_to_hole(mask).shape == (2, 1, 64, 64) and torch.equal(hole_to_mask(mask_to_hole(mask)), mask)
    assert bernoulli_mask(3).shape == (3, 256)
    assert abs(bernoulli_mask(100, generator=seeded(0)).float().mean() - 0.5) < 5 * 0.5 / 160
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"within .0,1.; got {p}"): bernoulli_mask(1, p=p)


# --- decoding

class Mixer(nn.Module):
    """A stand-in for the transformer: logits of a position from its token, its place and the mean over all tokens, in
    float64."""
    def __init__(self, num_tokens: int, codes: int, seed: int):
        super().__init__()
        self.mask_token_id, g = codes, seeded(seed)
        self.table = torch.randn(codes + 1, codes, generator=g, dtype=torch.float64) * 2
        self.place = torch.randn(num_tokens, codes, generator=g, dtype=torch.float64)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table[tokens]
        return x + 2 * x.mean(1, keepdim=True) + self.place


class Fixed(nn.Module):
    "A stand-in for the transformer that always says the same."
    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits, self.mask_token_id = logits, logits.shape[-1]

    def forward(self, tokens: Tensor) -> Tensor: return self.logits.expand(len(tokens), -1, -1)


options = st.fixed_dictionaries(dict(steps=st.integers(1, 7), schedule=any_schedule(), order=st.sampled_from(ORDERS),
                                     confidence=st.sampled_from(CONFIDENCES),
                                     temperature=st.sampled_from([0.0, 0.5, 4.5, 100.0]),
                                     sampling_temperature=st.sampled_from([0.0, 0.3, 1.0, 10.0]),
                                     top_k=st.none() | st.integers(1, 12), top_p=st.none() | st.floats(0.05, 1),
                                     sweet_spot=st.just(-1) | st.integers(1, 9),
                                     guidance=st.sampled_from([0.0, 0.0, 0.5, 3.0])))


@st.composite
def puzzles(draw):
    "A stand-in transformer, tokens (B,N) and masks (B,N) of any size, image by image: nothing to everything unknown."
    num_tokens, codes, seed = draw(st.sampled_from([1, 4, 9, 16, 25])), draw(st.integers(2, 9)), draw(seeds)
    shares = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.2, 0.6, 1.0]), min_size=1, max_size=4)))
    tokens = torch.randint(codes, (len(shares), num_tokens), generator=seeded(seed))
    mask = torch.rand(tokens.shape, generator=seeded(seed + 1)) < shares[:, None]
    return Mixer(num_tokens, codes, seed), tokens, mask


@given(puzzles(), options, seeds)
@settings(max_examples=200)
def test_decode_keeps_what_is_known_and_reveals_the_rest(puzzle, options, seed):
    transformer, tokens, mask = puzzle
    given_tokens, given_mask = tokens.clone(), mask.clone()
    steps = list(decode(transformer, tokens, mask, generator=seeded(seed), **options))
    assert torch.equal(tokens, given_tokens) and torch.equal(mask, given_mask)  # the caller's own are left alone
    assert [step.number for step in steps] == list(range(1, len(steps) + 1)) and len(steps) <= options["steps"]
    if 1 <= options["sweet_spot"]: assert len(steps) <= options["sweet_spot"]
    for step in steps:
        assert torch.equal(step.tokens[~given_mask], given_tokens[~given_mask])  # known: never changed
        assert torch.equal(step.tokens[~mask], tokens[~mask])  # revealed: never changed
        assert not (step.mask & ~mask).any()  # and never masked again
        left, before = step.mask.sum(1), mask.sum(1)
        assert torch.equal(left, step.counts) and ((left < before) | (before == 0)).all()
        assert (step.tokens >= 0).all() and (step.tokens < transformer.mask_token_id).all()
        assert (step.confidence[~mask] == torch.inf).all() and step.confidence[mask].isfinite().all()
        tokens, mask = step.tokens, step.mask
    assert not mask.any()


@given(puzzles(), options, seeds)
@settings(max_examples=60)
def test_decode_reveals_the_best_ranked(puzzle, options, seed):
    mask = puzzle[2]
    for step in decode(*puzzle, generator=seeded(seed), **options):
        for row in range(len(mask)):
            revealed, left = mask[row] & ~step.mask[row], step.mask[row]
            if left.any(): assert step.confidence[row][revealed].min() >= step.confidence[row][left].max()
        mask = step.mask


@given(puzzles(), options, seeds)
@settings(max_examples=60)
def test_decode_does_not_look_under_the_mask(puzzle, options, seed):
    transformer, tokens, mask = puzzle
    for other in (transformer.mask_token_id, 0, -1):
        one = list(decode(transformer, tokens, mask, generator=seeded(seed), **options))
        two = list(decode(transformer, tokens.masked_fill(mask, other), mask, generator=seeded(seed), **options))
        assert len(one) == len(two) and all(torch.equal(a.tokens, b.tokens) for a, b in zip(one, two, strict=True))


@given(puzzles(), options, seeds)
@settings(max_examples=100)
def test_decode_of_a_batch_equals_one_by_one(puzzle, options, seed):
    transformer, tokens, mask = puzzle
    batch, alone = seeded(seed), seeded(seed)
    together = tokens
    for step in decode(transformer, tokens, mask, generator=batch, **options): together = step.tokens
    for row in range(len(tokens)):
        single = tokens[row:row + 1]
        for step in decode(transformer, single, mask[row:row + 1], generator=alone, **options): single = step.tokens
        assert torch.equal(single, together[row:row + 1])
    assert torch.equal(batch.get_state(), alone.get_state())


@given(options, seeds)
def test_same_seed_same_tokens_whatever_else_was_drawn(options, seed):
    transformer, tokens, mask = Mixer(16, 8, 0), torch.zeros(2, 16, dtype=torch.long), torch.ones(2, 16,
                                                                                                  dtype=torch.bool)
    torch.manual_seed(0)
    one = [step.tokens for step in decode(transformer, tokens, mask, generator=seeded(seed), **options)]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    two = [step.tokens for step in decode(transformer, tokens, mask, generator=seeded(seed), **options)]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


@st.composite
def extreme_logits(draw):
    "Logits (N,K) in float32 from flat to the largest there are, some codes impossible, one always possible."
    n, codes, seed = draw(st.sampled_from([1, 4, 9])), draw(st.integers(1, 8)), draw(seeds)
    logits = torch.randn(n, codes, generator=seeded(seed)) * draw(st.sampled_from([0.0, 1.0, 1e4, 1e30, 5e37]))
    impossible = torch.rand(n, codes, generator=seeded(seed + 1)) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    impossible[:, draw(st.integers(0, codes - 1))] = False
    return logits.masked_fill(impossible, -torch.inf)


@given(extreme_logits(), options, seeds)
@settings(max_examples=100)
def test_no_mask_token_and_no_impossible_code_is_ever_sampled(logits, options, seed):
    tokens = torch.zeros(2, len(logits), dtype=torch.long)
    mask = torch.ones(2, len(logits), dtype=torch.bool)
    for step in decode(Fixed(logits), tokens, mask, generator=seeded(seed), **options):
        assert (step.tokens >= 0).all() and (step.tokens < logits.shape[-1]).all()
        assert logits.expand(2, -1, -1).gather(-1, step.tokens[..., None]).isfinite().all()
        mask = step.mask
    assert not mask.any()


@pytest.mark.parametrize("order", ORDERS)
def test_a_broken_model_is_named_and_known_tokens_survive_a_wild_one(order):
    """A transformer that diverged gives NaN, or numbers too large for its softmax; where nothing is asked of it, that
    does no harm."""
    tokens, mask = torch.arange(16)[None] % 8, torch.arange(16)[None] < 8
    run = lambda logits: list(decode(Fixed(logits), tokens, mask, steps=4, order=order, generator=seeded(0)))
    whole = torch.randn(16, 8, generator=seeded(1))
    for broken in (torch.nan, torch.inf):
        for place in (slice(None), (3, 5)):
            logits = whole.clone()
            logits[place] = broken
            with pytest.raises(ValueError, match="not numbers"): run(logits)
    with pytest.raises(ValueError, match="not numbers"): run(torch.full((16, 8), -torch.inf))
    for wild in (torch.where(mask.T, whole, torch.nan), whole.sign() * 1e30,
                 whole.masked_fill(whole < 0.5, -torch.inf).index_fill(1, torch.tensor(0), 0.0)):
        for step in run(wild): assert torch.equal(step.tokens[~mask], tokens[~mask]) and not (step.mask & ~mask).any()
        assert not step.mask.any()


def test_draws_are_uniform_and_gumbel():
    """Kolmogorov's distance to the uniform distribution: above 2.2 / sqrt(n) once in ten thousand. exp(-exp(-g)) of a
    Gumbel number is uniform."""
    draws, n = Draws(3, seeded(0)), 20_000
    for drawn in (draws.uniform(n), (-(-draws.gumbel(n)).exp()).exp()):
        assert drawn.shape == (3, n) and 0 < drawn.min() and drawn.max() < 1
        for row in drawn.double().sort(1).values: assert (row - (torch.arange(n) + 0.5) / n).abs().max() < 2.2 / n**0.5
        assert len(drawn.flatten().unique()) > 2 * n  # no row repeats another


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.sampled_from([0.3, 1.0, 2.0]))
def test_sampling_is_proportional_to_probability(scores, temperature):
    "Over an even grid of `uniform`, every code comes as often as its probability says, to one draw."
    draws = 1000
    uniform = (torch.arange(draws, dtype=torch.float64)[None] + 0.5) / draws
    logits = torch.tensor(scores).expand(1, draws, -1)
    found = torch.bincount(sample_tokens(logits, uniform, temperature)[0], minlength=len(scores))
    expected = (torch.tensor(scores).double() / temperature).softmax(-1) * draws
    assert (found - expected).abs().max() <= 1 + 1e-6


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=9, unique=True), st.integers(1, 12), st.floats(0.01, 0.99))
@settings(max_examples=100)
def test_top_k_and_top_p_against_plain_python(scores, top_k, top_p):
    logits = torch.tensor(scores, dtype=torch.float64) / 10
    order = sorted(range(len(scores)), key=lambda code: -scores[code])
    kept = filter_logits(logits[None], top_k=top_k)[0].isfinite()
    assert set(kept.nonzero().flatten().tolist()) == set(order[:top_k])
    weight = [math.exp(score / 10) for score in scores]
    total, nucleus = 0.0, set()
    for code in order:
        if total < top_p - 1e-12: nucleus.add(code)
        total += weight[code] / sum(weight)
    kept = filter_logits(logits[None], top_p=top_p)[0]
    assert set(kept.isfinite().nonzero().flatten().tolist()) == nucleus
    assert torch.equal(kept[kept.isfinite()], logits[kept.isfinite()])  # the others stay as they were


@pytest.mark.parametrize("side", range(1, 17))
def test_halton_order_visits_every_position_once(side):
    assert sorted(halton_order(side**2).tolist()) == list(range(side**2))


# --- inpainting

def drawn_holes(shares: list[float], size: int, seed: int) -> Tensor:
    "Holes (B,1,size,size) with about these shares missing."
    return torch.rand(len(shares), 1, size, size, generator=seeded(seed)) < torch.tensor(shares).view(-1, 1, 1, 1)


shares = st.lists(st.sampled_from([0.0, 0.01, 0.1, 1.0]), min_size=1, max_size=4)
choices = st.fixed_dictionaries(dict(steps=st.integers(1, 6), schedule=st.sampled_from(sorted(SCHEDULES)),
                                     order=st.sampled_from(ORDERS), temperature=st.sampled_from([0.0, 4.5]),
                                     dilate=st.integers(0, 2), evidence=st.sampled_from([0.0, 60.0, "learned"]),
                                     fill=st.sampled_from(sorted(FILLS)), composite=st.booleans(), blend=st.booleans(),
                                     refine=st.booleans())).map(
                                         lambda options: options | dict(refine=options["refine"]
                                                                        and options["composite"]))


@given(shares=shares, options=choices, seed=seeds)
@in_double()
def test_inpaint_of_a_batch_equals_one_by_one(shares, options, seed):
    maskgit = tiny_maskgit()
    holes = drawn_holes(shares, 16, seed)
    images = torch.rand(len(shares), 3, 16, 16, generator=seeded(seed)) * 2 - 1
    alone = seeded(seed)
    together = maskgit.inpaint(images, holes, generator=seeded(seed), **options)
    for row in range(len(shares)):
        single = maskgit.inpaint(images[row:row + 1], holes[row:row + 1], generator=alone, **options)
        assert torch.equal(single.tokens[0], together.tokens[row]) and torch.equal(single.mask[0], together.mask[row])
        torch.testing.assert_close(single.images[0], together.images[row], atol=1e-12, rtol=0)


@given(shares=shares, options=choices, seed=seeds)
def test_inpaint_keeps_known_pixels_and_known_tokens(maskgit, shares, options, seed):
    holes = drawn_holes(shares, 16, seed)
    images = torch.rand(len(shares), 3, 16, 16, generator=seeded(seed)) * 2 - 1
    result = maskgit.inpaint(images, holes, generator=seeded(seed), frames=True, **options)
    known = maskgit.vqgan.encode(FILLS[options["fill"]](images, holes))
    assert torch.equal(result.mask, hole_to_mask(holes, 4, options["dilate"]))
    for tokens in [step.tokens for step in result.steps] + [result.tokens]:
        assert torch.equal(tokens[~result.mask], known[~result.mask])
    outside = ~holes.expand_as(images)
    if options["composite"]: assert same_bits(result.images[outside], images[outside])
    made = maskgit.vqgan.decode(result.tokens)
    if options["composite"] and options["blend"]: made = poisson_blend(images, made, holes)
    if options["refine"]: made = maskgit.refiner(composite(images, made, holes), holes).clamp(-1, 1)
    assert same_bits(result.images[~outside], made[~outside])
    assert result.images.abs().max() <= 1


@given(shares=shares, seed=seeds)
def test_poisson_blend_corrects_by_no_more_than_it_saw(shares, seed):
    holes, g = drawn_holes(shares, 16, seed), seeded(seed)
    images, made = (torch.rand(len(shares), 3, 16, 16, generator=g) - 0.5 for _ in range(2))
    blended = poisson_blend(images.masked_fill(holes, torch.inf), made, holes)
    assert torch.equal(blended[~holes.expand_as(images)], images[~holes.expand_as(images)])
    for x, y, z, hole in zip(images, made, blended, holes.expand_as(images), strict=True):
        for channel in range(3):
            outside, inside = (x - y)[channel][~hole[channel]], (z - y)[channel][hole[channel]]
            if len(inside) and len(outside):
                assert outside.min() - 1e-5 <= inside.min() and inside.max() <= outside.max() + 1e-5
            elif len(inside): assert inside.abs().max() == 0


@pytest.mark.parametrize("make", [random_holes, box_holes])
def test_harmonic_fill_approaches_scipys_solution(make):
    "The mean of the neighbours that there are, as a sparse system that scipy solves at once."
    images, hole = drawn_cats(1, 5).double(), make(1, 64, seeded(2))[0, 0]
    missing = {tuple(place): row for row, place in enumerate(hole.nonzero().tolist())}
    system, given = scipy.sparse.lil_matrix((len(missing),) * 2), np.zeros((len(missing), 3))
    for (y, x), row in missing.items():
        around = [(v, u) for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)) if 0 <= v < 64 and 0 <= u < 64]
        system[row, row] = len(around)
        for place in around:
            if place in missing: system[row, missing[place]] = -1
            else: given[row] += images[0, :, place[0], place[1]].numpy()
    solved = scipy.sparse.linalg.spsolve(system.tocsc(), given)
    filled = harmonic_fill(images, hole[None, None], rounds=8000)[0, :, hole].T.numpy()
    np.testing.assert_allclose(filled, solved, atol=1e-3)


def test_poisson_blend_solves_laplaces_equation():
    holes = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    holes[..., 3:9, 2:10] = True
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    # each the mean of its neighbours
    harmonic = torch.stack([x / 12 - 0.5, (x * y - 36) / 80, (x * x - y * y) / 150]).unsqueeze(0)
    blended = poisson_blend(harmonic, torch.zeros(1, 3, 12, 12), holes, rounds=400)
    torch.testing.assert_close(blended, harmonic, atol=1e-3, rtol=0)


@given(shares=shares, seed=seeds)
def test_smooth_fill_stays_within_the_known_pixels(shares, seed):
    holes = drawn_holes(shares, 16, seed)
    images = torch.rand(len(shares), 3, 16, 16, generator=seeded(seed)) * 2 - 1
    filled = smooth_fill(images.masked_fill(holes, torch.nan), holes)
    for picture, image, hole in zip(filled, images, holes, strict=True):
        known = image[~hole.expand_as(image)].view(3, -1)
        assert same_bits(picture[~hole.expand_as(picture)].view(3, -1), known)
        if not known.numel(): assert not picture.any()
        else:
            assert (picture.flatten(1) <= known.amax(1, keepdim=True)
                    + 1e-5).all() and (picture.flatten(1) >= known.amin(1, keepdim=True) - 1e-5).all()


@given(st.integers(1, 12), st.integers(1, 12), seeds)
def test_smooth_fill_reaches_every_pixel_from_a_single_one(height, width, seed):
    holes = torch.ones(1, 1, height, width, dtype=torch.bool)
    holes.view(-1)[seed % holes.numel()] = False
    images = torch.rand(1, 3, height, width, generator=seeded(seed)) + 1
    assert torch.allclose(smooth_fill(images, holes),
                          images[~holes.expand_as(images)].view(1, 3, 1, 1).expand_as(images))


@given(shares=shares, seed=seeds)
def test_evidence_is_loudest_where_most_is_seen_and_silent_where_nothing_is(maskgit, shares, seed):
    holes = drawn_holes(shares, 16, seed)
    images = torch.rand(len(shares), 3, 16, 16, generator=seeded(seed)) * 2 - 1
    with torch.no_grad():
        one, two = (visible_evidence(maskgit.vqgan, images, holes, weight) for weight in (1.0, 2.0))
    gone = torch.nn.functional.avg_pool2d(holes.float(), 4).flatten(1)
    torch.testing.assert_close(two, 2 * one)
    assert (one <= 0).all() and not one[gone == 1].any()
    tokens = maskgit.vqgan.encode(images)
    # the quantizer's choice explains best
    best, chosen = one.max(-1).values, one.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(chosen, best, atol=1e-5, rtol=1e-4)
    assert not torch.equal(one,
                           visible_evidence(maskgit.vqgan, images, torch.zeros_like(holes), 1.0)) or not (gone
                                                                                                          > 0).any()


def test_all_is_seen_and_evidence_is_strong_then_the_picture_is_its_own_reconstruction(maskgit):
    images, holes = torch.rand(2, 3, 16, 16, generator=seeded(0)) * 2 - 1, torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    holes[..., 5, 5] = True
    result = maskgit.inpaint(images, holes, dilate=1, evidence=1e6, composite=False, generator=seeded(0))
    assert torch.equal(result.tokens, maskgit.vqgan.encode(smooth_fill(images, holes))) and result.mask.sum() == 2 * 9


@given(case=st.integers(0, 10_000), seed=seeds)
@settings(max_examples=30)
def test_logit_bias_is_as_if_the_transformer_said_so(case, seed):
    g = seeded(case)
    logits, bias = torch.randn(3, 16, 8, generator=g), 3 * torch.randn(3, 16, 8, generator=g)
    tokens, mask = torch.randint(8, (3, 16), generator=g), torch.rand(3, 16, generator=g) < 0.6
    apart = list(decode(Fixed(logits), tokens, mask, steps=3, logit_bias=bias, generator=seeded(seed)))
    joined = list(decode(Fixed(logits + bias), tokens, mask, steps=3, generator=seeded(seed)))
    for one, two in zip(apart, joined, strict=True):
        assert torch.equal(one.tokens, two.tokens) and torch.equal(one.mask, two.mask)


@given(shares=shares, options=choices, seed=seeds)
def test_inpaint_does_not_look_into_the_hole(maskgit, shares, options, seed):
    holes = drawn_holes(shares, 16, seed)
    images = torch.rand(len(shares), 3, 16, 16, generator=seeded(seed)) * 2 - 1
    one = maskgit.inpaint(images, holes, generator=seeded(seed), **options)
    for filling in (1.0, torch.nan):
        two = maskgit.inpaint(images.masked_fill(holes, filling), holes, generator=seeded(seed), **options)
        assert torch.equal(one.tokens, two.tokens) and torch.equal(one.images, two.images)


@given(seed=seeds, order=st.sampled_from(ORDERS))
@settings(max_examples=20)
def test_same_seed_same_picture_other_seed_other_picture(maskgit, seed, order):
    one = maskgit.generate(2, generator=seeded(seed), order=order)
    again = maskgit.generate(2, generator=seeded(seed), order=order)
    other = maskgit.generate(2, generator=seeded(seed + 1), order=order)
    assert torch.equal(one.tokens, again.tokens) and torch.equal(one.images, again.images)
    assert not torch.equal(one.tokens, other.tokens) and not torch.equal(one.images, other.images)
    assert not torch.equal(one.tokens[0], one.tokens[1])  # neighbours in a batch draw for themselves


def test_dropout_is_off_while_inpainting_and_as_before_afterwards(make_maskgit):
    model = make_maskgit()
    assert not model.transformer.training
    quiet = model.generate(2, generator=seeded(0)).tokens
    model.train()
    assert torch.equal(model.generate(2, generator=seeded(0)).tokens, quiet)
    assert model.training and model.transformer.training and model.vqgan.training


@given(batch=st.integers(1, 3), grid=st.integers(1, 5), height=st.integers(1, 4), width=st.integers(1, 4),
       share=st.sampled_from([0.0, 0.02, 0.3, 1.0]), dilate=st.integers(0, 3), seed=seeds)
@settings(max_examples=100)
def test_hole_to_mask_is_any_pixel_then_grown(batch, grid, height, width, share, dilate, seed):
    "A token stands for `height` x `width` pixels."
    holes = drawn_holes([share] * batch, 20, seed)[..., :grid * height, :grid * width]
    masks = [hole_to_mask(holes, grid, d).view(batch, grid, grid) for d in (0, dilate, dilate + 1)]
    for b, row, column in itertools.product(range(batch), range(grid), range(grid)):
        cell_pixels = holes[b, 0, row * height:(row + 1) * height, column * width:(column + 1) * width]
        assert masks[0][b, row, column] == any(cell_pixels.flatten().tolist())
        near = masks[0][b, max(0, row - dilate):row + dilate + 1, max(0, column - dilate):column + dilate + 1]
        assert masks[1][b, row, column] == any(near.flatten().tolist())
    assert not (masks[1] & ~masks[2]).any()  # a larger dilate only adds


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), seeds)
def test_composite_is_exact_to_the_bit(batch, height, width, seed):
    shape = (batch, 3, height, width)
    images, made = (torch.randn(shape, generator=seeded(seed + i)) for i in range(2))
    images[torch.rand(shape, generator=seeded(seed)) < 0.2] = -0.0
    made[torch.rand(shape, generator=seeded(seed + 1)) < 0.2] = torch.nan
    holes = torch.rand(batch, 1, height, width, generator=seeded(seed)) < 0.5
    result, missing = composite(images, made, holes), holes.expand(shape)
    assert same_bits(result[missing], made[missing]) and same_bits(result[~missing], images[~missing])


def test_known_pixels_of_real_pictures_stay(cats_data):
    "The lab's own inputs and masks through the shipped weights."
    images = torch.stack([load_image(path) for path in find_pictures(find_split(cats_data, "masked_image"))[:8]])
    holes = torch.stack([load_hole(path) for path in find_pictures(find_split(cats_data, "mask64"))[:8]])
    share = holes.float().mean((1, 2, 3))
    assert (0.05 < share).all() and (share < 0.35).all()
    assert (to_uint8(images)[holes.expand_as(images)] == 128).all()  # what is missing is grey
    result = MaskGIT.from_pretrained("cats64-small").inpaint(images, holes, generator=seeded(0)).images
    known = ~holes.expand_as(images)
    assert same_bits(result[known], images[known]) and torch.equal(to_uint8(result)[known], to_uint8(images)[known])
    assert (result[~known] != images[~known]).float().mean() > 0.9


# --- attention

@given(batch=st.integers(1, 3), n=st.integers(1, 20), heads=st.integers(1, 4), width=st.integers(1, 9), seed=seeds)
def test_explicit_attention_equals_fused_and_torchs_own(batch, n, heads, width, seed):
    dim, g = heads * width, seeded(seed)
    attention = MultiHeadAttention(dim, heads, dropout=0.3).eval()
    for p in attention.parameters(): p.data = torch.randn(p.shape, generator=g) / dim**0.5
    x = torch.randn(batch, n, dim, generator=g)
    attention.fused = True
    fused = attention(x)
    attention.fused = False
    explicit = attention(x)
    torch.testing.assert_close(explicit, fused, atol=1e-5, rtol=1e-5)
    theirs = nn.MultiheadAttention(dim, heads, batch_first=True).eval()
    theirs.load_state_dict({"in_proj_weight": attention.qkv.weight, "in_proj_bias": attention.qkv.bias,
                            "out_proj.weight": attention.proj.weight, "out_proj.bias": attention.proj.bias})
    expected, weights = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(explicit, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention.weights(x), weights, atol=1e-5, rtol=1e-5)


@given(n=st.integers(2, 12), seed=seeds)
@settings(max_examples=15)
def test_attention_gradients_agree(n, seed):
    attention = MultiHeadAttention(12, 3).eval()
    x = torch.randn(2, n, 12, generator=seeded(seed))
    grads = []
    for attention.fused in (True, False):
        grads.append(torch.autograd.grad(attention(x).pow(2).sum(), list(attention.parameters())))
    for a, b in zip(*grads, strict=True): torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_attention_by_itself_is_that_of_the_lab():
    "768 numbers, 16 heads, dropout 0.1 in training, torch's kernel."
    attention = MultiHeadAttention()
    assert attention.qkv.weight.shape == (3 * 768, 768) and attention.proj.weight.shape == (768, 768)
    assert (attention.num_heads, attention.dropout, attention.fused) == (16, 0.1, True)


# --- masking and its loss

@given(st.integers(1, 4), st.integers(1, 12), st.integers(2, 9), st.floats(0, 0.9), seeds)
@settings(max_examples=80)
def test_mvtm_loss_ignores_what_is_not_masked(batch, n, codes, smoothing, seed):
    g = seeded(seed)
    logits = torch.randn(batch, n, codes, generator=g).requires_grad_()
    tokens = torch.randint(codes, (batch, n), generator=g)
    mask = torch.rand(batch, n, generator=g) < 0.5
    mask[0, 0] = True
    loss = mvtm_loss(logits, tokens, mask, smoothing)
    gradient, = torch.autograd.grad(loss, logits)
    assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any()
    for junk in (7.0, -1e30, torch.nan):
        changed = torch.where(mask[..., None], logits, torch.full_like(logits, junk))
        assert torch.equal(mvtm_loss(changed, tokens.masked_fill(~mask, -1), mask, smoothing), loss)
    logprob = logits.detach().double().log_softmax(-1)
    target = (1 - smoothing) * nn.functional.one_hot(tokens, codes) + smoothing / codes
    by_hand = [-(target[i, j] * logprob[i, j]).sum().item() for i, j in mask.nonzero().tolist()]
    assert math.isclose(loss.item(), sum(by_hand) / len(by_hand), rel_tol=1e-5, abs_tol=1e-6)


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1, width=32)), min_size=1, max_size=5), seeds)
@settings(max_examples=100)
def test_random_mask_masks_exactly_so_many_of_the_candidates(rows, seed):
    sizes, ratios = zip(*rows, strict=True)
    candidates = torch.stack([torch.randperm(30, generator=seeded(seed + i)) < size for i, size in enumerate(sizes)])
    mask = random_mask(torch.tensor(ratios), candidates=candidates, generator=seeded(seed))
    assert mask.dtype == torch.bool and not (mask & ~candidates).any()
    for count, size, ratio in zip(mask.sum(1).tolist(), sizes, ratios, strict=True):
        assert 1 <= count <= size and count >= ratio * size - 1e-4 and (count == 1 or count - 1 < ratio * size)


@given(st.integers(1, 256), st.data())
@settings(max_examples=100)
def test_random_mask_of_k_out_of_n_masks_k(n, data):
    k = data.draw(st.integers(1, n))
    for dtype in (torch.float32, torch.float64):
        assert random_mask(torch.tensor([k / n], dtype=dtype), n, generator=seeded(k)).sum() == k


def test_random_mask_reaches_every_subset_alike():
    masks = random_mask(torch.full((6000,), 0.5), 4, generator=seeded(0))
    found = torch.bincount((masks * torch.tensor([1, 2, 4, 8])).sum(1), minlength=16)
    pairs = [3, 5, 6, 9, 10, 12]
    assert found[pairs].sum() == 6000 and (found[pairs] - 1000).abs().max() < 150  # five standard deviations


@given(st.integers(1, 4), st.integers(1, 10), st.data())
@settings(max_examples=100)
def test_keep_lowest_against_plain_sorting(batch, n, data):
    values = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 0.5, 2.0, math.inf])  # ties are common
    score = data.draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=batch, max_size=batch))
    counts = data.draw(st.lists(st.integers(0, n), min_size=batch, max_size=batch))
    found = keep_lowest(torch.tensor(score), torch.tensor(counts))
    for row, count, kept in zip(score, counts, found, strict=True):
        assert set(kept.nonzero().flatten().tolist()) == set(sorted(range(n), key=lambda i: (row[i], i))[:count])


# --- images

@given(st.integers(1, 12), st.integers(1, 12), seeds)
def test_bytes_to_image_and_back_is_exact(height, width, seed):
    pixels = torch.randint(256, (3, height, width), generator=seeded(seed), dtype=torch.uint8)
    x = pixels.float() / 127.5 - 1
    assert torch.equal(to_uint8(x), pixels)
    assert torch.equal(to_tensor(to_picture(x)), x) and x.abs().max() <= 1
    assert torch.equal(torch.tensor(np.asarray(to_picture(x))).permute(2, 0, 1), pixels)


def test_every_level_and_the_rounding_between():
    levels = torch.arange(256)
    x = (levels / 127.5 - 1).expand(3, 1, 256)
    assert torch.equal(to_uint8(x)[0, 0], levels.byte())
    for shift in (-0.4, 0.4): assert torch.equal(to_uint8(x + shift / 127.5)[0, 0], levels.byte())
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_png_on_disk_and_back_is_exact(tmp_path):
    x = torch.randint(256, (3, 9, 7), generator=seeded(0), dtype=torch.uint8).float() / 127.5 - 1
    to_picture(x).save(tmp_path / "x.png")
    assert torch.equal(load_image(tmp_path / "x.png"), x)


# --- weights

@given(seed=seeds, code_dim=st.sampled_from([0, 5]), local=st.booleans(), norm_first=st.booleans(),
       position_bias=st.booleans())
@settings(max_examples=16)
def test_saved_transformer_comes_back_the_same(tmp_path_factory, seed, **flags):
    folder, g = tmp_path_factory.mktemp("weights"), seeded(seed)
    model = BidirectionalTransformer(TransformerConfig(num_tokens=9, codebook_size=7, dim=8, layers=1, heads=2,
                                                       hidden=8, **flags)).eval()
    for value in model.state_dict().values(): value.copy_(torch.randn(value.shape, generator=g))
    save_module(model, folder / "transformer.safetensors")
    loaded = BidirectionalTransformer.from_pretrained(folder)
    tokens = torch.randint(8, (2, 9), generator=g)
    assert loaded.config == model.config and not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(loaded(tokens), model(tokens))


def test_saved_maskgit_comes_back_the_same(make_maskgit, tmp_path):
    model = make_maskgit(3)
    for _ in range(2): model.save_pretrained(tmp_path / "full")  # also over what is there
    model.save_pretrained(tmp_path / "a" / "half", half=True)
    expected = model.generate(3, generator=seeded(0), refine=True)
    loaded = MaskGIT.from_pretrained(tmp_path / "full")
    assert loaded.vqgan.config == model.vqgan.config and loaded.transformer.config == model.transformer.config
    assert torch.equal(loaded.generate(3, generator=seeded(0), refine=True).images, expected.images)
    half = MaskGIT.from_pretrained(str(tmp_path / "a" / "half"))
    for name, value in model.state_dict().items():
        assert half.state_dict()[name].dtype == value.dtype
        torch.testing.assert_close(half.state_dict()[name], value, atol=1e-4, rtol=1e-3)
    for path in (tmp_path / "full").iterdir():
        assert (tmp_path / "a" / "half" / path.name).stat().st_size < 0.8 * path.stat().st_size
    files = {f"{name}.safetensors" for name in ("vqgan", "transformer", "refiner", "evidence")}
    assert {path.name for path in (tmp_path / "full").iterdir()} == files


@in_double()
def test_encode_takes_the_nearest_code(make_maskgit):
    vqgan: VQGAN = make_maskgit().vqgan
    x = torch.rand(2, 3, 16, 16, generator=seeded(0)) * 2 - 1
    with torch.no_grad(): z = nn.functional.normalize(vqgan.encoder(x), dim=1).flatten(2).transpose(1, 2)  # (B,N,D)
    far = (z.unsqueeze(2) - vqgan.quantizer.codebook).square().sum(-1)  # (B, N, K)
    assert torch.equal(vqgan.encode(x), far.argmin(-1))


# --- batches

@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 5), st.integers(0, 30))
@settings(max_examples=100)
def test_endless_batches_cover_every_pass_once_and_resume(n, batch_size, seed, start):
    batches = list(itertools.islice(EndlessBatches(n, batch_size, seed), start + 20))
    assert all(len(batch) == batch_size for batch in batches)
    indices = list(itertools.chain(*batches))
    for first in range(0, len(indices) - n + 1, n): assert sorted(indices[first:first + n]) == list(range(n))
    assert list(itertools.islice(EndlessBatches(n, batch_size, seed, start), 20)) == batches[start:]


def test_endless_batches_shuffle_anew_in_every_pass_and_by_seed():
    passes = {seed: list(itertools.islice(EndlessBatches(20, 20, seed), 5)) for seed in (0, 1)}
    assert len({tuple(order) for order in passes[0] + passes[1]}) == 10


# Attention's dropout, and what masks refuse

def test_dropout_zeroes_its_share_of_the_attention_weights_and_scales_the_others():
    torch.manual_seed(0)
    q = torch.zeros(64, 4, 32, 8)  # all weights are 1 / 32
    mixed, weights = scaled_dot_product(q, q, torch.eye(32).expand(64, 4, 32, 32), dropout=0.25)
    assert torch.equal(weights, torch.full_like(weights, 1 / 32))
    zero = mixed == 0
    assert abs(zero.float().mean() - 0.25) < 6 * (0.25 * 0.75 / zero.numel()) ** 0.5
    torch.testing.assert_close(mixed[~zero], torch.full_like(mixed[~zero], 1 / 32 / 0.75))


@pytest.mark.parametrize("fused", [False, True])
def test_attention_drops_weights_in_training_only(fused: bool):
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(16, 4, dropout=0.5, fused=fused), torch.randn(2, 9, 16)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
    many = torch.stack([layer.train()(x) for _ in range(2000)])
    error = many.std(0) / 2000 ** 0.5
    assert ((many.mean(0) - layer.eval()(x)).abs() < 6 * error + 1e-6).all()  # it is right in the mean


def test_a_mask_by_chance_is_its_generators():
    masks = [bernoulli_mask(3, 256, 0.5, generator=seeded(seed)) for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("candidates", [torch.ones(2, 9), torch.ones(2, dtype=torch.bool),
                                        torch.ones(3, 9, dtype=torch.bool)])
def test_places_to_mask_are_bool_a_row_for_each_image(candidates: torch.Tensor):
    with pytest.raises(ValueError): random_mask(torch.rand(2), 9, candidates=candidates)


@pytest.mark.parametrize("tokens, size", [(15, 16), (9, 16)])
def test_a_mask_of_no_square_or_not_of_the_pictures_size_is_refused(tokens: int, size: int):
    with pytest.raises(ValueError): mask_to_hole(torch.zeros(1, tokens, dtype=torch.bool), size)


def test_a_grey_filling_is_grey():
    images, holes = torch.ones(2, 3, 16, 16), torch.rand(2, 1, 16, 16, generator=seeded(0)) < 0.5
    assert torch.equal(grey_fill(images, holes), (~holes).float().expand(2, 3, 16, 16))


def test_pictures_of_steps_meet_the_known_pixels_as_asked(maskgit):
    images, holes = drawn_cats(2, size=16), torch.rand(2, 1, 16, 16, generator=seeded(0)) < 0.5
    result = maskgit.inpaint(images, holes, steps=2, frames=True, generator=seeded(0))
    made = [maskgit.vqgan.decode(step.tokens) for step in result.steps]
    for options, join in ({}, poisson_blend), (dict(blend=True), poisson_blend), (dict(blend=False), composite):
        shown = step_images(maskgit, images, holes, result, **options)
        assert torch.equal(shown, torch.stack([join(images, x, holes) for x in made]))


@pytest.mark.parametrize("shape", [(2, 2, 16, 16), (1, 16, 16)])
def test_holes_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError): hole_to_mask(torch.zeros(shape, dtype=torch.bool), 4)
