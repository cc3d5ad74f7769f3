"Masks, schedules and decoding at the edges of what they take."
import itertools
import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from conftest import TRANSFORMER_CONFIG, in_double
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from maskgit_nb.cats import drawn_cats
from maskgit_nb.decoding import (
    ORDERS,
    TOKEN_COLORS,
    Draws,
    decided_at,
    decode,
    filter_logits,
    halton_order,
    predict,
    rank_tokens,
    reveal,
    sample_tokens,
    show_steps,
    token_picture,
)
from maskgit_nb.images import random_holes
from maskgit_nb.inpainting import (
    EVIDENCE,
    PLAIN,
    Evidence,
    MaskGIT,
    Refiner,
    RefinerConfig,
    composite,
    grey_fill,
    harmonic_fill,
    hole_to_mask,
    poisson_blend,
    smooth_fill,
    step_images,
    visible_evidence,
)
from maskgit_nb.masking import bernoulli_mask, widest_float
from maskgit_nb.schedules import get_schedule, logarithmic, mask_counts, masked_share
from maskgit_nb.speed import cached
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig, flops_per_pass
from maskgit_nb.vqgan import VQGAN, VQGANConfig


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
    for rounding in (1e-9, 1e-6):
        assert masked_share(lambda r: -rounding, 0.5) == 0.0 and masked_share(lambda r: 1 + rounding, 0.5) == 1.0


def test_the_logarithm_is_cut_where_less_than_a_token_of_256_is_asked_for():
    assert [logarithmic(r) for r in (0, 1 / 1024, 1 / 256)] == [1.0, 1.0, 1.0]


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


def test_the_last_step_leaves_nothing_whatever_gamma_says():
    assert mask_counts(lambda r: 1.0, 9, 3) == [8, 7, 0]


def test_where_there_is_float64_it_is_taken():
    "A device without it: test_device.py."
    assert widest_float(torch.device("cpu")) == torch.float64


@pytest.mark.parametrize("option, value, word", [
    ("order", "spiral", "order must be one of"), ("confidence", "logit", "confidence must be one of"),
    ("steps", 0, "steps must be"), ("schedule", "cosin", "schedule must be one of"),
    ("temperature", -1, "temperature must not be negative"),
    ("temperature", float("inf"), "temperature must not be negative or infinite"),
    ("sampling_temperature", -1, "sampling_temperature must not be negative"), ("top_k", 0, "top_k must be at least 1"),
    ("top_p", 1.5, "top_p must be within"), ("sweet_spot", 0, "sweet_spot must be"),
    ("logit_bias", torch.zeros(5, 9, 8), "logit_bias must be")])
def test_decode_refuses_at_the_call(option, value, word):
    "Not at the first step, which may be asked for far away."
    with pytest.raises(ValueError, match=word): decode(babbling(), TOKENS, UNKNOWN, **{option: value})


def test_halton_needs_a_square_grid_at_the_call():
    with pytest.raises(ValueError, match="square number; got 15"):
        decode(babbling(), TOKENS[:, :15], UNKNOWN[:, :15], order="halton")


def test_draws_are_never_0_or_alike_and_fit_any_number_of_tokens():
    "The logarithm of 0 would be infinite; of 1,000 images no two draw the same."
    with patch.object(torch, "rand", lambda *shape, **options: torch.zeros(*shape, dtype=options["dtype"])):
        assert Draws(2).uniform(3).min() > 0 and Draws(2).gumbel(3).isfinite().all()
    draws = Draws(1000, torch.Generator().manual_seed(0))
    first = draws.uniform(1)
    assert first.dtype == torch.float64 and len(first.unique()) == 1000
    assert draws.uniform(3).shape == (1000, 3)


def test_the_edges_of_what_is_filtered():
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    assert filter_logits(logits, top_k=1).isfinite().tolist() == [False, True, False]
    assert filter_logits(logits, top_p=1).isfinite().all()
    rows = filter_logits(torch.stack([logits, logits.flip(0)]), top_p=0.5)
    assert rows.isfinite().tolist() == [[False, True, False], [False, True, False]]
    for wrong in (dict(top_k=0), dict(top_p=0), dict(top_p=1.5)):
        with pytest.raises(ValueError, match=next(iter(wrong))): filter_logits(logits, **wrong)


def same_steps(one, two) -> None:
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.tokens, b.tokens) and torch.equal(a.mask, b.mask)
        assert torch.equal(a.confidence, b.confidence)


def test_decode_does_by_itself_what_it_says():
    "Its defaults, named one by one."
    steps = decode(babbling(), TOKENS, UNKNOWN, generator=torch.Generator().manual_seed(3))
    named = decode(babbling(), TOKENS, UNKNOWN, steps=8, schedule="cosine", temperature=1.0, order="confidence",
                   confidence="logprob", sampling_temperature=1.0, top_k=None, top_p=None, sweet_spot=-1,
                   logit_bias=None, guidance=0.0, generator=torch.Generator().manual_seed(3))
    same_steps(steps, named)


def test_inpaint_and_generate_do_by_themselves_what_they_say(maskgit):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    holes = random_holes(2, 16, torch.Generator().manual_seed(0))
    options = dict(schedule="cosine", order="confidence", dilate=0, fill="smooth", evidence=30.0, composite=True,
                   blend=True, refine=False, frames=False)
    seeded = lambda: torch.Generator().manual_seed(5)
    mended, named = maskgit.inpaint(images, holes, generator=seeded()), maskgit.inpaint(
        images, holes, steps=8, temperature=1.0, generator=seeded(), **options)
    assert torch.equal(mended.images, named.images) and mended.steps == []
    everything = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    made = maskgit.inpaint(images, everything, steps=12, temperature=9.0, guidance=0.3, generator=seeded(),
                           **options)
    assert torch.equal(maskgit.generate(2, seeded()).images, made.images)
    favour = torch.linspace(-3, 0, 24)
    with patch.object(MaskGIT, "inpaint") as asked: maskgit.generate(2, favour=favour)
    assert asked.call_args.kwargs == dict(generator=None, steps=12, temperature=9.0, guidance=0.3, favour=favour,
                                          sampling_temperature=1.1)
    assert torch.equal(poisson_blend(images, -images, holes), poisson_blend(images, -images, holes, rounds=25))
    assert torch.equal(harmonic_fill(images, holes), harmonic_fill(images, holes, rounds=25))


def shifting(by: float) -> Refiner:
    "A refiner that adds `by` to every missing number."
    refiner = Refiner(RefinerConfig(width=8, blocks=1)).requires_grad_(False)
    refiner.layers[-2].bias.fill_(by)
    return refiner


def test_a_refiner_corrects_the_holes_alone_and_within_the_range(make_maskgit):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images[0, :, 0] = torch.tensor([-1.5, 2.0, 0.0]).view(3, 1)  # known pixels are never touched, whatever they are
    holes = random_holes(2, 16, torch.Generator().manual_seed(0))
    holes[0, 0, 0] = False
    maskgit, seeded = make_maskgit(), lambda: torch.Generator().manual_seed(5)
    plain = maskgit.inpaint(images, holes, generator=seeded(), frames=True)
    for by in (0.25, -3.0, 3.0):
        maskgit.refiner = shifting(by)
        refined = maskgit.inpaint(images, holes, generator=seeded(), frames=True, refine=True)
        expected = torch.where(holes, (plain.images + by).clamp(-1, 1), images)
        torch.testing.assert_close(refined.images, expected, atol=1e-6, rtol=0)
        assert torch.equal(refined.images.masked_fill(holes, 0), images.masked_fill(holes, 0))
        assert torch.equal(refined.tokens, plain.tokens)
        assert torch.equal(step_images(maskgit, images, holes, plain, refine=True)[-1], refined.images)
        assert torch.equal(maskgit.refined(images.double(), holes).masked_fill(holes, 0),
                           images.double().masked_fill(holes, 0))
    maskgit.refiner = Refiner(RefinerConfig(width=8, blocks=1))  # untrained
    assert torch.equal(maskgit.inpaint(images, holes, generator=seeded(), refine=True).images,
                       plain.images.clamp(-1, 1).where(holes, images))


def test_a_refiner_sees_the_pixels_around_and_which_are_missing():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        refiner = Refiner(RefinerConfig(width=8, blocks=1)).requires_grad_(False)
        torch.nn.init.normal_(refiner.layers[-2].weight)
    images, holes = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    holes[..., 4:8, 4:8] = True
    usual, brighter, larger = images.clone(), images.clone(), holes.clone()
    brighter[..., 3, 3] = 1.0
    larger[..., 3, 3] = True
    made = [refiner(*given)[..., 4:8, 4:8] for given in ((usual, holes), (brighter, holes), (usual, larger))]
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_refine_is_refused_without_a_refiner_and_without_known_pixels(make_maskgit, tmp_path):
    images, holes = torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16, dtype=torch.bool)
    maskgit = make_maskgit()
    with pytest.raises(ValueError, match="composite"): maskgit.inpaint(images, holes, refine=True, composite=False)
    maskgit.save_pretrained(tmp_path)
    again = MaskGIT.from_pretrained(tmp_path)
    assert torch.equal(again.refined(images, holes), maskgit.refined(images, holes))
    assert not again.refiner.training
    (tmp_path / "refiner.safetensors").unlink()
    alone = MaskGIT.from_pretrained(tmp_path)
    for run in (lambda: alone.inpaint(images, holes, refine=True), lambda: alone.refined(images, holes)):
        with pytest.raises(ValueError, match="refiner.safetensors"): run()
    alone.save_pretrained(tmp_path / "alone")
    kept = [f"{name}.safetensors" for name in ("evidence", "transformer", "vqgan")]
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == kept


def test_learned_evidence_is_what_its_network_says_before_and_while_decoding(make_maskgit):
    maskgit, seeded = make_maskgit(), lambda: torch.Generator().manual_seed(5)
    vqgan, evidence = maskgit.vqgan, maskgit.evidence
    images = torch.rand(3, 3, 16, 16, generator=seeded()) * 2 - 1
    holes = random_holes(3, 16, seeded())
    filled, mask = smooth_fill(images, holes), hole_to_mask(holes, 4)
    with torch.no_grad():
        latents = vqgan.latents(filled)
        said = evidence(vqgan, filled, holes, latents)
        # by hand: each token's patch of red, green, blue and hole, channel by channel, above the encoder's vector
        patches = torch.cat([filled, holes.float()], 1).unflatten(3, (4, 4)).unflatten(2, (4, 4))  # (B, 4, h, y, w, x)
        seen = patches.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        h = evidence.layers(torch.cat([seen, torch.nn.functional.normalize(latents, dim=1)], 1))
        points = evidence.scores.weight @ h.flatten(2) + evidence.scores.bias[:, None]
        right = 8 * torch.einsum("bdn,kd->bnk", points, vqgan.quantizer.codebook) + evidence.bias
        torch.testing.assert_close(said, right, atol=1e-4, rtol=1e-4)
    decoded = [*decode(maskgit.transformer, vqgan.encode(filled), mask, logit_bias=said, generator=seeded())][-1]
    mended = maskgit.inpaint(images.masked_fill(holes, torch.nan), holes, evidence="learned", generator=seeded())
    assert torch.equal(mended.tokens, decoded.tokens)
    for other in (0.0, EVIDENCE):
        assert not torch.equal(maskgit.inpaint(images, holes, evidence=other, generator=seeded()).tokens, mended.tokens)
    maskgit.evidence = Evidence(evidence.config)  # untrained
    assert torch.equal(maskgit.inpaint(images, holes, evidence="learned", generator=seeded()).images,
                       maskgit.inpaint(images, holes, evidence=0.0, generator=seeded()).images)


def test_learned_evidence_is_refused_where_there_is_none_or_it_does_not_fit(make_maskgit, tmp_path):
    maskgit = make_maskgit()
    images, holes = torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16, dtype=torch.bool)
    maskgit.save_pretrained(tmp_path)
    again = MaskGIT.from_pretrained(tmp_path)
    runs = [m.inpaint(images, holes, evidence="learned", generator=torch.Generator().manual_seed(0)).images
            for m in (maskgit, again)]
    assert torch.equal(*runs) and not again.evidence.training
    (tmp_path / "evidence.safetensors").unlink()
    alone = MaskGIT.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lack evidence.safetensors.*give evidence a weight"):
        alone.inpaint(images, holes, evidence="learned")
    for wrong in ("learnt", -1, float("nan")):
        with pytest.raises(ValueError, match=f"evidence must be .*, or 'learned'; got {wrong!r}"):
            maskgit.inpaint(images, holes, evidence=wrong)
    config = maskgit.evidence.config
    for change in (dict(patch=2), dict(codebook_size=8), dict(code_dim=3)):
        with pytest.raises(ValueError, match=f"tokens of .*{next(iter(change))}.*VQGAN's"):
            MaskGIT(maskgit.vqgan, maskgit.transformer, evidence=Evidence(replace(config, **change)))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_blended_picture_stays_within_its_range(sign):
    "What was made is as bright as can be, and the border asks for more."
    holes = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    holes[..., 2:6, 2:6] = True
    images, made = torch.full((1, 3, 8, 8), float(sign)), sign * holes.float().expand(1, 3, 8, 8)
    assert torch.equal(poisson_blend(images, made, holes), images)


def test_plain_is_a_grey_hole_tokens_and_a_composite(maskgit):
    "By hand; and evidence may weigh less than 1."
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    holes, seeded = random_holes(2, 16, torch.Generator().manual_seed(0)), lambda: torch.Generator().manual_seed(5)
    tokens = maskgit.vqgan.encode(grey_fill(images, holes))
    *_, last = decode(maskgit.transformer, tokens, hole_to_mask(holes, 4), generator=seeded())
    made = maskgit.vqgan.decode(last.tokens)
    plain = maskgit.inpaint(images, holes, generator=seeded(), **PLAIN)
    assert torch.equal(plain.tokens, last.tokens) and torch.equal(plain.images, composite(images, made, holes))
    everywhere = maskgit.inpaint(images, holes, generator=seeded(), composite=False, **PLAIN)
    assert torch.equal(everywhere.images, made) and torch.equal(everywhere.tokens, last.tokens)
    assert maskgit.inpaint(images, holes, evidence=0.5, generator=seeded()).images.isfinite().all()


@pytest.mark.parametrize("on_sphere", [True, False])
def test_evidence_is_its_formula(on_sphere):
    "-weight / 2 * share seen * |z - code|^2 / mean |code|^2, place by place; each of 3 codes is 2 numbers long."
    config = VQGANConfig((("unshuffle", 4),), (("shuffle", 4),), image_size=8, codebook_size=3, latent_dim=48,
                         l2_normalize=on_sphere)
    vqgan = VQGAN(config)
    vqgan.quantizer.embedding.weight.data = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))
    filled = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    holes = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(2)) < 0.4
    with torch.no_grad(): found = visible_evidence(vqgan, filled, holes, 3.0)
    codes, latents = vqgan.quantizer.codebook.detach(), vqgan.latents(filled)
    length = sum((code**2).sum() for code in codes) / 3
    for image, place, code in itertools.product(range(2), range(4), range(3)):
        row, column = divmod(place, 2)
        z = latents[image, :, row, column]
        if on_sphere: z = z / z.norm()
        seen = 1 - holes[image, 0, 4 * row:4 * row + 4, 4 * column:4 * column + 4].sum() / 16
        by_hand = -3.0 / 2 * seen * ((z - codes[code])**2).sum() / length
        torch.testing.assert_close(found[image, place, code], by_hand, atol=1e-4, rtol=1e-4)


def test_a_token_picture_shows_known_before_now_and_masked():
    colours = torch.tensor([[0xDD, 0xDD, 0xDD], [0x00, 0x72, 0xB2], [0xE6, 0x9F, 0x00], [0x22, 0x22, 0x22]])
    picture = token_picture(torch.tensor([0, 1, 2, 3]), 2, 4)
    expected = (colours.T / 127.5 - 1).view(3, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(picture, expected)


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


KINDS = [(3 if a else 1, b, c, a ^ b, 8 * (a ^ c)) for a, b, c in itertools.product([True, False], repeat=3)]


@pytest.mark.parametrize("layers, norm_first, position_bias, local, code_dim", KINDS)
def test_logits_of_masked_tokens_alone_are_those_among_all(layers, norm_first, position_bias, local, code_dim):
    "Networks with every two of their options, in float64: the same numbers and tokens, in a batch or one by one."
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


class Says(torch.nn.Module):
    "A transformer for two tokens of two codes whose logits are `empty` where all is masked, and else `given`."
    def __init__(self, empty: list[float], given: list[float]):
        super().__init__()
        self.mask_token_id, self.said = 2, torch.tensor([given, empty])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.said[(tokens == 2).all(1).long()].unsqueeze(1).expand(-1, 2, -1)


@pytest.mark.parametrize("weight, surest", [(0.0, 0), (0.04, 0), (0.06, 1), (1.0, 1)])
def test_guidance_goes_on_from_the_empty_grid_through_what_is_given(weight, surest):
    model, tokens = Says(empty=[2.0, 0.0], given=[2.0, 1.9]), torch.zeros(3, 2, dtype=torch.long)
    mask = torch.tensor([[False, True]]).expand(3, -1)
    options = dict(steps=1, sampling_temperature=0, guidance=weight)  # (1 + w) 1.9 - w 0 > 2 from w = 0.1 / 1.9 on
    *_, last = decode(model, tokens, mask, **options)
    assert last.tokens.tolist() == [[0, surest]] * 3
    guided = torch.tensor([2.0, 1.9]) + weight * torch.tensor([0.0, 1.9])
    assert torch.allclose(last.confidence[:, 1], guided.log_softmax(0).max().double(), atol=1e-6)
    *_, first = decode(model, tokens, torch.ones_like(mask), **options)
    assert first.tokens.tolist() == [[0, 0]] * 3  # nothing is given: nothing changes


def test_guidance_does_not_tell_a_batch_from_one_image_and_goes_with_kept_keys():
    model, everything = MaskGIT.from_pretrained("cats64-small"), torch.ones(2, 256, dtype=torch.bool)
    def last(transformer, n: int, steps: int) -> torch.Tensor:
        *_, step = decode(transformer, torch.zeros(n, 256, dtype=torch.long), everything[:n], steps, guidance=0.5,
                          temperature=7.0, generator=torch.Generator().manual_seed(0))
        return step.tokens
    both, unguided = last(model.transformer, 2, 3), model.generate(2, torch.Generator().manual_seed(0), steps=3,
                                                                   temperature=7.0, guidance=0.0).tokens
    assert torch.equal(both[:1], last(model.transformer, 1, 3)) and not torch.equal(both, unguided)
    assert torch.equal(last(cached(model.transformer), 2, 1), last(model.transformer, 2, 1))  # exact in the first step


def test_guidance_leaves_impossible_codes_impossible():
    never = -math.inf
    for empty, given in (([never, 0.0], [never, 1.0]), ([5.0, 0.0], [never, 1.0]), ([5.0, never], [never, 1.0])):
        *_, last = decode(Says(empty, given), torch.zeros(9, 2).long(), torch.tensor([[False, True]]).expand(9, -1),
                          steps=1, guidance=0.5)
        assert (last.tokens[:, 1] == 1).all()
    broken = decode(Says([0.0, 0.0], [math.nan, 0.0]), torch.zeros(1, 2).long(), torch.tensor([[False, True]]),
                    guidance=0.5)
    with pytest.raises(ValueError, match="logits that are not numbers"): list(broken)


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf")])
def test_guidance_out_of_range_is_refused_at_the_call(weight):
    with pytest.raises(ValueError, match="guidance must be a number from 0 up"):
        decode(Says([0.0, 0.0], [0.0, 0.0]), torch.zeros(1, 2).long(), torch.ones(1, 2).bool(), guidance=weight)


def test_sampling_is_checked_and_cut_by_each_of_its_options():
    logits, high = torch.tensor([[[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]]]), torch.full((1, 2), 0.999)
    assert sample_tokens(logits, high).tolist() == [[3, 3]]
    assert sample_tokens(logits, high, top_p=0.5).tolist() == [[0, 3]]
    assert sample_tokens(logits, high, top_k=1).tolist() == [[0, 3]]
    kept = filter_logits(torch.tensor([[0.0, 5.0, 0.0], [5.0, 0.0, 4.9]]), top_p=0.9)
    assert kept.isfinite().tolist() == [[False, True, False], [True, False, True]]
    for temperature in (0.0, 1.0):  # also where the likeliest is taken anyway
        for name, value in dict(top_k=0, top_p=1.5).items():
            with pytest.raises(ValueError, match=name): sample_tokens(logits, high, temperature, **{name: value})
            with pytest.raises(ValueError, match=name):
                decode(babbling(), TOKENS, UNKNOWN, sampling_temperature=temperature, **{name: value})


def test_ranks_are_what_their_order_says():
    logits, mask = torch.zeros(3, 4), torch.tensor([[True, False, True, True]])
    ranks = {order: rank_tokens(logits, torch.zeros(3, dtype=torch.long), mask, order, "logprob", 0.0,
                                Draws(1, torch.Generator().manual_seed(0))) for order in ORDERS}
    assert ranks["halton"].tolist() == (-halton_order(4)[mask[0]]).tolist()
    drawn = Draws(1, torch.Generator().manual_seed(0)).uniform(4)
    assert torch.equal(ranks["random"], drawn[mask])
    assert torch.allclose(ranks["confidence"], torch.full((3,), -math.log(4), dtype=torch.float64))
    steps = {order: [*decode(babbling(), TOKENS, UNKNOWN | True, steps=3, order=order,
                             generator=torch.Generator().manual_seed(0))] for order in ORDERS}
    assert not torch.equal(steps["halton"][0].mask, steps["confidence"][0].mask)
    n = TOKENS.shape[1]
    late = halton_order(n).topk(int(steps["halton"][0].counts[0])).indices.sort().values
    assert torch.equal(steps["halton"][0].mask[0].nonzero().flatten(), late)


class Asked(nn.Module):
    "Random logits, and a note of what was asked for."
    mask_token_id = 8

    def __init__(self):
        super().__init__()
        self.calls, self.forgotten = [], 0

    def forward(self, tokens: torch.Tensor, only: torch.Tensor | None = None) -> torch.Tensor:
        self.calls.append((len(tokens), only is not None))
        logits = torch.randn(*tokens.shape, 8, generator=torch.Generator().manual_seed(0))
        return logits if only is None else logits[only]

    def forget(self) -> None: self.forgotten += 1


@pytest.mark.parametrize("temperature", [1.7e308, 1e307])
def test_noise_beyond_all_numbers_masks_no_known_token(maskgit, temperature):
    tokens, mask = torch.zeros(64, 16, dtype=torch.long), torch.arange(16).expand(64, -1) >= 8
    try: steps = [*decode(maskgit.transformer, tokens, mask, steps=4, temperature=temperature,
                        generator=torch.Generator().manual_seed(0))]
    except ValueError as error: assert "lower temperature" in str(error)
    else: assert all(torch.equal(step.tokens[~mask], tokens[~mask]) and not (step.mask & ~mask).any() for step in steps)


@pytest.mark.parametrize("score", [torch.inf, torch.nan])
def test_a_rank_that_is_no_number_is_refused(maskgit, score):
    tokens = torch.zeros(1, 16, dtype=torch.long)
    def draw(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor: return logits.argmax(-1)
    def rank(logits: torch.Tensor, drawn: torch.Tensor, *_) -> torch.Tensor: return torch.full((len(drawn),), score)
    steps = reveal(maskgit.transformer, tokens, tokens == 0, torch.tensor([[8, 0]]), draw, rank)
    with pytest.raises(ValueError, match="no finite number"): next(steps)


def test_a_transformer_is_asked_for_masked_tokens_in_parts_and_told_to_forget():
    asked, tokens = Asked(), torch.zeros(20, 4, dtype=torch.long)
    [*decode(asked, tokens, tokens == 0, steps=1)]
    assert asked.calls == [(8, True), (8, True), (4, True)] and asked.forgotten == 2
    asked = Asked()
    asked.at_once = 15
    predict(asked, tokens)
    assert asked.calls == [(15, False), (5, False)]


@pytest.mark.parametrize("tokens, mask", [(torch.zeros(4), torch.ones(4)), (torch.zeros(1, 4), torch.ones(1, 4)),
                                          (torch.zeros(1, 4), torch.ones(1, 3))])
def test_tokens_and_masks_of_other_shapes_or_kinds_are_refused(tokens, mask):
    masks = [mask.long()] if mask.shape == (1, 4) else [mask.bool(), mask.long()]
    for wrong in masks:
        with pytest.raises(ValueError, match="same shape .* and mask be bool"): decode(Asked(), tokens.long(), wrong)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_sweet_spot_takes_all_at_that_step_and_not_before(stop):
    left = [step.counts.tolist() for step in decode(babbling(), TOKENS, UNKNOWN | True, steps=6, sweet_spot=stop)]
    plan = mask_counts("cosine", TOKENS.shape[1], 6)
    assert [counts[0] for counts in left] == [*plan[:stop - 1], 0]


def test_the_colours_of_a_trace_have_these_names():
    assert [*TOKEN_COLORS] == ["known", "decided before", "decided now", "masked"]
    assert [colour.lstrip("#") for colour in TOKEN_COLORS.values()] == ["DDDDDD", "0072B2", "E69F00", "222222"]


@pytest.mark.parametrize("cut", [dict(top_k=1), dict(top_p=1e-6)])
def test_decode_hands_its_cuts_on(cut):
    def last(**options) -> torch.Tensor:
        *_, step = decode(babbling(), TOKENS, UNKNOWN, steps=1, **options)
        return step.tokens
    assert torch.equal(last(**cut), last(sampling_temperature=0.0))


def test_decode_hands_its_kind_of_confidence_on():
    def sure(kind: str) -> torch.Tensor:
        step, = decode(babbling(), TOKENS, UNKNOWN, steps=1, sampling_temperature=0.0, confidence=kind)
        return step.confidence[UNKNOWN]
    assert torch.allclose(sure("prob"), sure("logprob").exp())


def test_top_p_stops_where_the_sum_is_reached_exactly():
    assert filter_logits(torch.zeros(1, 2), top_p=0.5).isfinite().tolist() == [[True, False]]


def test_a_token_for_which_no_code_is_possible_is_no_prediction():
    model = Says([0.0, 0.0], [-math.inf, -math.inf])
    both = torch.tensor([[False, True], [True, True]])  # the second asks for the empty grid, which is whole
    steps = decode(model, torch.zeros(2, 2).long(), both)
    with pytest.raises(ValueError, match="logits that are not numbers"): next(steps)


def test_guidance_leaves_a_code_alone_that_the_empty_grid_excludes():
    step, = decode(Says([-math.inf, 0.0], [1.0, 0.9]), torch.zeros(1, 2).long(), torch.tensor([[False, True]]), steps=1,
                   guidance=0.1, sampling_temperature=0.0)
    expected = torch.tensor([1.0, 0.99]).log_softmax(0)[0]
    assert step.tokens[0, 1] == 0 and abs(step.confidence[0, 1] - expected) < 1e-6
