"""What other people's libraries say about this kit. Each test names its judge and is skipped where that is not
installed; all of them come with the extra `dev`. Random numbers are seeded, and computing is in float64 wherever both
sides can, so that only rounding tells them apart."""
import math
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import in_double
from torch import Tensor, nn
from torch.utils.data import Subset

from maskgit_nb.attention import MultiHeadAttention
from maskgit_nb.cats import drawn_cats
from maskgit_nb.decoding import Draws, decode, halton_order, rank_tokens, reveal
from maskgit_nb.fid import fid, frechet_distance, image_features, kernel_distance, precision_recall, random_network
from maskgit_nb.images import to_uint8
from maskgit_nb.inpainting import poisson_blend
from maskgit_nb.schedules import SCHEDULES, mask_counts
from maskgit_nb.scores import hole_psnr, hole_ssim
from maskgit_nb.transformer import BidirectionalTransformer, Block, TransformerConfig
from maskgit_nb.vqgan import VectorQuantizer, perplexity, psnr


def seeded(seed: int = 0) -> torch.Generator: return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def alike(ours: Tensor, theirs: Tensor) -> None:
    "Numbers of about size one, each the sum of some hundred products of 16 digits."
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


# --- attention and transformer: torch

ATTENTION = {"qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias", "proj.weight": "out_proj.weight",
             "proj.bias": "out_proj.bias"}
LAYER = {**{f"attention.{ours}": f"self_attn.{theirs}" for ours, theirs in ATTENTION.items()},
         **{f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")
            for ours, theirs in (("norm1", "norm1"), ("norm2", "norm2"), ("mlp.0", "linear1"), ("mlp.2", "linear2"))}}


def lend_weights(ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    "Both in float64, with the same weights, none of which is 0 or 1."
    for i, p in enumerate(ours.double().parameters()): p.data = p.ndim % 2 + normal(*p.shape, seed=i) / p.shape[-1]**0.5
    theirs.double().load_state_dict({names[name]: value for name, value in ours.state_dict().items()})


def agree(ours: nn.Module, theirs: nn.Module, names: dict[str, str], mine: Tensor, yours: Tensor, x: Tensor) -> None:
    "Results, and the gradients of input and of every weight, of an uneven sum of them."
    alike(mine, yours)
    weight = normal(*mine.shape, seed=99)
    found, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert {names[name] for name in found} == expected.keys()
    left = torch.autograd.grad((mine * weight).sum(), [x, *found.values()])
    right = torch.autograd.grad((yours * weight).sum(), [x, *(expected[names[name]] for name in found)])
    for a, b in zip(left, right, strict=True): alike(a, b)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_before_torchs_multihead_attention(fused: bool):
    "nn.MultiheadAttention with our weights: results, gradients, and attention weights averaged over the heads."
    ours, theirs = MultiHeadAttention(24, 3, dropout=0.0, fused=fused), nn.MultiheadAttention(24, 3, batch_first=True)
    lend_weights(ours, theirs, ATTENTION)
    x = normal(2, 7, 24).requires_grad_()
    mixed, averaged = theirs(x, x, x)
    alike(ours.weights(x).mean(1), averaged)
    agree(ours, theirs, ATTENTION, ours(x), mixed, x)


def encoder_layer(config: TransformerConfig) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(config.dim, config.heads, config.hidden, dropout=0.0, activation="gelu",
                                      layer_norm_eps=config.eps, batch_first=True, norm_first=config.norm_first)


def small_config(norm_first: bool) -> TransformerConfig:
    return TransformerConfig(num_tokens=9, codebook_size=7, dim=16, layers=3, heads=2, hidden=24, dropout=0.0,
                             norm_first=norm_first)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_block_before_torchs_encoder_layer(norm_first: bool):
    """nn.TransformerEncoderLayer with our weights: results and gradients, and the results of its kernel without
    gradients, which is another implementation. Not with dropout: theirs drops inside the perceptron too."""
    config = small_config(norm_first)
    ours, theirs = Block(config), encoder_layer(config)
    lend_weights(ours, theirs, LAYER)
    x = normal(2, 9, 16).requires_grad_()
    agree(ours, theirs, LAYER, ours(x), theirs(x), x)
    with torch.no_grad(): alike(ours(x), theirs.eval()(x))


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_stack_before_torchs_encoder(norm_first: bool):
    "nn.TransformerEncoder with our weights, before the head: with a last norm where norms come first, else without."
    config = small_config(norm_first)
    model = BidirectionalTransformer(config)
    ours = nn.ModuleDict({"blocks": model.blocks, **({"norm": model.norm} if norm_first else {})})
    theirs = nn.TransformerEncoder(encoder_layer(config), config.layers, enable_nested_tensor=False,
                                   norm=nn.LayerNorm(config.dim, config.eps) if norm_first else None)
    names = {f"blocks.{i}.{mine}": f"layers.{i}.{yours}" for i in range(config.layers) for mine, yours in LAYER.items()}
    names |= {"norm.weight": "norm.weight", "norm.bias": "norm.bias"}
    lend_weights(ours, theirs, names)
    x = normal(2, 9, 16).requires_grad_()
    mixed = model.blocks(x)
    agree(ours, theirs, names, model.norm(mixed) if norm_first else mixed, theirs(x), x)


# --- vector quantizer: vector-quantize-pytorch

@pytest.mark.parametrize("l2_normalize", [True, False])
@in_double()
def test_the_quantizer_before_vector_quantize_pytorch(l2_normalize: bool):
    """VectorQuantize with our codebook (`use_cosine_sim` for the sphere): tokens, codes, the straight-through gradient
    of the latents, and that of the commitment loss, beta * |z - sg(e)|^2.

    Definitions differ in three points. Their codebook moves by running means, so that their loss is the commitment
    alone; ours adds |sg(z) - e|^2, which has the same value before beta: (1 + beta) / beta of theirs. On the sphere
    they give the gradient of the commitment through the normalization, as we do. Their default gradient of the latents
    is not the straight-through one but that of the rotation trick, which is off here."""
    judge = pytest.importorskip("vector_quantize_pytorch")
    beta, ours = 0.25, VectorQuantizer(32, 6, l2_normalize)
    ours.embedding.weight.data = normal(32, 6, seed=1) * torch.linspace(0.5, 2, 32)[:, None]  # of uneven lengths
    theirs = judge.VectorQuantize(6, 32, use_cosine_sim=l2_normalize, accept_image_fmap=True, commitment_weight=beta,
                                  rotation_trick=False, freeze_codebook=True)
    theirs.codebook = ours.codebook.detach()
    latents = normal(3, 6, 5, 5).requires_grad_()
    mine, (codes, tokens, commitment) = ours(latents), theirs(latents)
    assert torch.equal(mine.tokens, tokens.flatten(1)) and len(tokens.unique()) > 16
    alike(mine.codes, codes)
    alike(ours.lookup(mine.tokens), theirs.get_codes_from_indices(tokens))
    alike(mine.loss, commitment * (1 + beta) / beta)
    weight = normal(*codes.shape, seed=2)
    for a, b in (((mine.codes * weight).sum(), (codes * weight).sum()), (mine.loss, commitment)):
        alike(*(torch.autograd.grad(loss, latents, retain_graph=True)[0] for loss in (a, b)))


@in_double()
def test_the_codebooks_gradient_before_vector_quantize_pytorch():
    "VectorQuantize with a codebook that learns by gradient: its commitment loss, of weight 1, pulls codes as ours."
    judge = pytest.importorskip("vector_quantize_pytorch")
    ours = VectorQuantizer(32, 6, l2_normalize=False)
    ours.embedding.weight.data = normal(32, 6, seed=1)
    theirs = judge.VectorQuantize(6, 32, learnable_codebook=True, ema_update=False, rotation_trick=False,
                                  accept_image_fmap=True)
    theirs._codebook.embed.data = ours.codebook.detach()[None].clone()
    latents = normal(3, 6, 5, 5)
    expected, = torch.autograd.grad(theirs(latents)[2], theirs._codebook.embed)
    found, = torch.autograd.grad(ours(latents).loss, ours.embedding.weight)
    assert found.abs().sum() > 0
    alike(found, expected[0])


# --- decoding: diffusers

class Talker(nn.Module):
    "A transformer's part: logits of a position from its token, its place and the mean over all tokens, in float64."
    def __init__(self, num_tokens: int, codes: int):
        super().__init__()
        self.mask_token_id, self.table, self.place = codes, normal(codes + 1, codes), normal(num_tokens, codes, seed=1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table[tokens]
        return 2 * x + 2 * x.mean(1, keepdim=True) + self.place


def puzzle(unknown: list[int], num_tokens: int, codes: int) -> tuple[Tensor, Tensor]:
    "Tokens (B,N), and masks (B,N) of so many unknown tokens each."
    tokens = torch.randint(codes, (len(unknown), num_tokens), generator=seeded(2))
    rank = torch.rand(tokens.shape, generator=seeded(3)).argsort(1).argsort(1)
    return tokens, rank < torch.tensor(unknown)[:, None]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("temperature", [0.0, 4.5])
def test_decode_before_diffusers_scheduler(schedule: str, temperature: float, monkeypatch: pytest.MonkeyPatch):
    """AmusedScheduler.step of diffusers, with its own Gumbel noise lent to us, and our sampled tokens to it: after
    every step the same tokens are masked and all others are the same.

    What it does otherwise is set to ours: it counts from one share for the whole batch, and gets one for each image;
    its temperature falls evenly between two numbers, T0 * (1 - 1/steps) and 0 here. What is not compared: the draw of
    the tokens (multinomial there), and counts where it would reveal nothing or less than one token for each step to
    come, which eight steps of so many tokens do not meet. A known token has the confidence log(1.8e308) = 709 there,
    inf here."""
    amused = pytest.importorskip("diffusers.schedulers.scheduling_amused")
    steps, codes, unknown = 8, 12, [64, 50, 33, 21]
    transformer, (tokens, mask) = Talker(64, codes), puzzle(unknown, 64, codes)
    noise = [amused.gumbel_noise(tokens.double(), generator=seeded(i)) for i in range(steps)]
    lent = iter(noise)
    monkeypatch.setattr(Draws, "gumbel", lambda self, n: next(lent))
    theirs = amused.AmusedScheduler(mask_token_id=codes, masking_schedule=schedule)
    theirs.set_timesteps(steps, temperature=(temperature * (1 - 1 / steps), 0.0))
    share, state = torch.tensor(unknown).double()[:, None] / 64, tokens.masked_fill(mask, codes)
    ours = decode(transformer, tokens, mask, steps, schedule, temperature, generator=seeded())
    for timestep, step, drawn in zip(theirs.timesteps, ours, noise, strict=True):
        sampled = step.tokens.reshape(-1, 1)
        with patch.object(torch, "multinomial", return_value=sampled), \
                patch.object(amused, "gumbel_noise", return_value=drawn):
            done = theirs.step(transformer(state), timestep, state, starting_mask_ratio=share)
        assert torch.equal(done.pred_original_sample, step.tokens)
        assert torch.equal(done.prev_sample, step.tokens.masked_fill(step.mask, codes)), f"step {step.number}"
        state = done.prev_sample
    assert not (state == codes).any()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 4.5])
def test_the_choice_of_what_stays_masked_before_diffusers(temperature: float, monkeypatch: pytest.MonkeyPatch):
    "mask_by_random_topk of diffusers, for every count that a row of 16 tokens allows, whatever schedule gives it."
    amused = pytest.importorskip("diffusers.schedulers.scheduling_amused")
    unknown = [n for n in range(1, 17) for _ in range(n)]
    counts = torch.tensor([count for n in range(1, 17) for count in range(n)])
    transformer, (tokens, mask) = Talker(16, 9), puzzle(unknown, 16, 9)
    drawn = torch.randint(9, tokens.shape, generator=seeded(4))
    noise = amused.gumbel_noise(tokens.double(), generator=seeded(5))
    monkeypatch.setattr(Draws, "gumbel", lambda self, n: noise)
    def rank(logits, drawn, mask, number):
        return rank_tokens(logits, drawn, mask, "confidence", "logprob", temperature, Draws(len(mask)))
    step, = reveal(transformer, tokens, mask, counts[:, None], lambda logits, mask: drawn[mask], rank)
    probs = transformer(tokens.masked_fill(mask, 9)).softmax(-1).gather(-1, drawn[..., None])[..., 0]
    probs = torch.where(mask, probs, torch.finfo(torch.float64).max)
    with patch.object(amused, "gumbel_noise", return_value=noise):
        assert torch.equal(step.mask, amused.mask_by_random_topk(counts[:, None], probs, temperature))


# --- distances between sets of pictures: torch-fidelity, torchmetrics

def features(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    "Two clouds that are neither round nor alike, as one array (2, rows, columns)."
    x = normal(2, rows, columns, seed=seed) @ normal(2, columns, columns, seed=seed + 1) / columns**0.5
    return (x + torch.tensor([0.0, 0.5]).view(2, 1, 1)).numpy()


def root_rounding(x: np.ndarray, y: np.ndarray) -> float:
    """How far tr (C1 C2)^(1/2) may be off where eigenvalues are 0: each may come out as D * 2e-16 of the largest, and
    its root counts, twice, D times."""
    columns, largest = x.shape[1], np.prod([np.linalg.norm(np.cov(z.T), 2) for z in (x, y)])
    return 2 * columns * (columns * np.finfo(float).eps * largest) ** 0.5


@pytest.mark.parametrize("rows, columns", [(60, 8), (6, 30)])  # by pytorch-fid's matrix root, and by singular values
def test_frechet_distance_before_torch_fidelity_and_torchmetrics(rows: int, columns: int):
    "Both take the root of eigenvalues, in all cases. (pytorch-fid itself: in test_fid.py.)"
    x, y = features(rows, columns)
    found, slack = frechet_distance(x, y), root_rounding(x, y)
    assert found > 100 * slack
    judge = pytest.importorskip("torch_fidelity.metric_fid")
    sides = [judge.fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
    said = judge.fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    assert found == pytest.approx(said, rel=1e-9, abs=slack)
    judge = pytest.importorskip("torchmetrics.image.fid")
    sides = [torch.as_tensor(z) for side in sides for z in (side["mu"], side["sigma"])]
    assert found == pytest.approx(judge._compute_fid(*sides).item(), rel=1e-9, abs=slack)


def test_kernel_distance_before_torch_fidelity_and_torchmetrics():
    "Both without our factor of 1,000, and for sets of one size, which is all that they take. One subset: everything."
    x, y = features(40, 12)
    judge = pytest.importorskip("torch_fidelity.metric_kid")
    found = judge.kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), kid_subsets=1, kid_subset_size=40,
                                         verbose=False)
    assert kernel_distance(x, y) == pytest.approx(1000 * found["kernel_inception_distance_mean"], rel=1e-9)
    judge = pytest.importorskip("torchmetrics.image.kid")
    found = judge.poly_mmd(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert kernel_distance(x, y) == pytest.approx(1000 * found, rel=1e-9)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_precision_and_recall_before_torch_fidelity(k: int):
    "Its `prc`, the way of Kynkäänniemi et al.; sets of different sizes. It averages in float32."
    judge = pytest.importorskip("torch_fidelity.metric_prc")
    x, y = features(300, 4)
    y = 0.6 * y[:200]
    found = judge.prc_features_to_metric(torch.from_numpy(y), torch.from_numpy(x), prc_neighborhood=k, verbose=False)
    assert 0.1 < found["recall"] < 0.95 and abs(found["recall"] - found["precision"]) > 0.005
    assert precision_recall(x, y, k) == pytest.approx((found["precision"], found["recall"]), abs=1e-6)


class Responses(nn.Module):
    "`random_network` as a module."
    num_features = 160

    def __init__(self):
        super().__init__()
        self.network = random_network()

    def forward(self, levels: Tensor) -> Tensor: return self.network(levels)


def two_sets() -> tuple[Tensor, Tensor]:
    "Drawn cats, and others that are half as bright."
    cats = drawn_cats(24)
    return cats[:12], 0.5 * cats[12:]


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_from_pictures_to_distances_before_torchmetrics():
    "FrechetInceptionDistance and KernelInceptionDistance, given our network, batch after batch of levels."
    judge = pytest.importorskip("torchmetrics.image")
    real, made = two_sets()
    x, y = (image_features(z, random_network()) for z in (real, made))
    theirs = [judge.FrechetInceptionDistance(Responses()).set_dtype(torch.float64),
              judge.KernelInceptionDistance(Responses(), subsets=1, subset_size=12)]
    for metric in theirs:
        for images, is_real in ((real, True), (made, False)):
            for batch in to_uint8(images).split(5): metric.update(batch, real=is_real)
    assert fid(real, made, random_network()) == pytest.approx(theirs[0].compute().item(), abs=root_rounding(x, y))
    assert kernel_distance(x, y) == pytest.approx(1000 * theirs[1].compute()[0].item(), rel=1e-9)


def test_from_pictures_to_distances_before_torch_fidelity():
    "calculate_metrics, given our network: Fréchet and kernel distance, precision and recall in one call."
    judge = pytest.importorskip("torch_fidelity")
    base = pytest.importorskip("torch_fidelity.feature_extractor_base").FeatureExtractorBase
    class Extractor(base):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)
            self.responses = Responses()

        def forward(self, levels): return (self.responses(levels),)

        @staticmethod
        def get_provided_features_list(): return ("responses",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric): return "responses"

        @staticmethod
        def can_be_compiled(): return False
    real, made = two_sets()
    with patch.dict("torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY", {"ours": Extractor}):
        found = judge.calculate_metrics(
            input1=Subset(to_uint8(made), range(12)), input2=Subset(to_uint8(real), range(12)), cache=False,
            feature_extractor="ours", fid=True, kid=True, prc=True, kid_subsets=1, kid_subset_size=12, cuda=False,
            save_cpu_ram=True, verbose=False)
    x, y = (image_features(z, random_network()) for z in (real, made))
    assert fid(to_uint8(real), made, random_network()) == pytest.approx(found["frechet_inception_distance"],
                                                                        abs=root_rounding(x, y))
    assert kernel_distance(x, y) == pytest.approx(1000 * found["kernel_inception_distance_mean"], rel=1e-9)
    assert precision_recall(x, y) == pytest.approx((found["precision"], found["recall"]), abs=1e-6)


# --- orders and fillings: scipy

@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 9, 12, 16, 27, 32])
def test_halton_order_before_scipy(side: int):
    """qmc.Halton of scipy, unscrambled, without its first point, which is 0. Its sums of digits may end a rounding
    error below a border of the grid, hence the 1e-9."""
    qmc = pytest.importorskip("scipy.stats").qmc
    points = qmc.Halton(2, scramble=False).random(60 * side**2)[1:]
    rows, columns = np.floor(points * side + 1e-9).astype(int).T
    visited = list(dict.fromkeys((rows * side + columns).tolist()))  # first visits, in order
    assert len(visited) == side**2
    assert halton_order(side**2).argsort().tolist() == visited


def test_poisson_blend_before_scipys_direct_solution():
    """Pérez et al. 2003, eq. 7, as a sparse system for scipy: in the hole the differences of neighbours are those of
    what was made, around it stands the image. A hole at the border of the picture, and one inside."""
    sparse = pytest.importorskip("scipy.sparse")
    solve = pytest.importorskip("scipy.sparse.linalg").spsolve
    images, made = 0.15 * normal(1, 3, 12, 12), 0.15 * normal(1, 3, 12, 12, seed=1)
    holes = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    holes[..., :5, 3:9] = holes[..., 7:10, 2:11] = True
    missing = {place: row for row, place in enumerate(map(tuple, holes[0, 0].nonzero().tolist()))}
    system, given = sparse.lil_matrix((len(missing),) * 2), np.zeros((len(missing), 3))
    for (y, x), row in missing.items():
        for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= place[0] < 12 and 0 <= place[1] < 12): continue
            system[row, row] += 1
            given[row] += (made[0, :, y, x] - made[0, :, place[0], place[1]]).numpy()
            if place in missing: system[row, missing[place]] = -1
            else: given[row] += images[0, :, place[0], place[1]].numpy()
    solved = solve(system.tocsc(), given)
    assert 0.2 < np.abs(solved).max() < 1  # nothing is cut off
    blended = poisson_blend(images, made, holes, rounds=1000)
    np.testing.assert_allclose(blended[0][:, holes[0, 0]].T.numpy(), solved, atol=1e-6)
    assert torch.equal(blended[~holes.expand_as(images)], images[~holes.expand_as(images)])


# --- schedules: the formulas of google-research/maskgit

GOOGLES = {"linear": lambda r: 1 - r, "cosine": lambda r: np.cos(np.pi / 2 * r), "square": lambda r: 1 - r**2.0,
           "cubic": lambda r: 1 - r**3.0, "sqrt": lambda r: 1 - r**0.5,
           "logarithmic": lambda r: -np.log2(r) / np.log2(256), "exponential": lambda r: 1 - np.exp2(-8 * (1 - r))}


def test_schedules_before_googles_formulas():
    """mask_schedule.py of google-research/maskgit for 256 tokens, as written there: uniform, cosine, pow2, pow3, pow.5,
    log and exp, all kept within [1e-6, 1]. Ours may reach 0. `arccos` is not among them: it is cosine's inverse."""
    assert {*GOOGLES, "arccos"} == SCHEDULES.keys()
    ratios = np.linspace(0, 1, 257)[1:]
    for name, gamma in GOOGLES.items():
        found = [max(1e-6, SCHEDULES[name](r)) for r in ratios.tolist()]
        np.testing.assert_allclose(found, np.clip(gamma(ratios), 1e-6, 1), rtol=0, atol=1e-15, err_msg=name)
    for r in ratios.tolist(): assert SCHEDULES["cosine"](SCHEDULES["arccos"](r)) == pytest.approx(r, abs=1e-15)


def googles_counts(shares: list[float], n: int) -> list[int]:
    """How many of n tokens parallel_decode.py of google-research/maskgit masks again after each step, at least one,
    where these shares are asked for. (Theirs are float32, whose rounding may take a token; 1e-9 forgives it here.)"""
    counts, unknown = [], n
    for mask_ratio in shares:
        unknown = max(1, min(unknown - 1, math.floor(n * mask_ratio + 1e-9)))
        counts.append(unknown)
    return counts


@pytest.mark.parametrize("name", GOOGLES)
def test_counts_before_googles_formula(name: str):
    """`mask_counts` and parallel_decode.py, for up to 128 tokens and 24 steps. The last step is told otherwise: theirs
    masks one token, and gives out what was sampled before that. In all others the counts are the same wherever theirs
    reveals something at every step: with cosine and all others that are concave, if there are as many tokens as steps.
    Ours leaves theirs on purpose where it stands still at one token, which it samples again and again: ours keeps a
    token for every step, or reveals one a step if there are fewer."""
    stood = 0
    for steps in range(1, 25):
        shares = np.clip(GOOGLES[name](np.arange(1, steps + 1) / steps), 1e-6, 1).tolist()
        for n in range(2, 129):
            ours, theirs = mask_counts(name, n, steps), googles_counts(shares, n)[:-1]
            assert ours.pop() == 0 and len(ours) == len(theirs)
            if all(before > after for before, after in pairwise([n, *theirs])):
                assert ours == theirs, (n, steps)
            elif n < steps: assert ours == [max(0, n - t) for t in range(1, steps)], (n, steps)
            else:
                stood += 1
                assert all(a >= b for a, b in zip(ours, theirs, strict=True)) and ours[-1] == 1, (n, steps)
                assert all(before > after for before, after in pairwise([n, *ours])), (n, steps)
    assert (stood > 0) == (name in ("sqrt", "logarithmic"))


# --- measures: scikit-image, torchmetrics, scipy

def test_psnr_before_scikit_image_and_torchmetrics():
    "All images together, colours from -1 to 1. Ours computes in the images' float32."
    x, y = drawn_cats(4), drawn_cats(4, seed=1)
    judge = pytest.importorskip("skimage.metrics")
    assert psnr(x, y) == pytest.approx(judge.peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=2), rel=1e-6)
    judge = pytest.importorskip("torchmetrics.functional.image")
    assert psnr(x, y) == pytest.approx(judge.peak_signal_noise_ratio(x, y, data_range=2.0).item(), rel=1e-6)


def inner_holes() -> Tensor:
    "Holes at least three pixels from the border, each of another size."
    holes = torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    for i in range(4): holes[i, 0, 3 + 5 * i:30 + 6 * i, 8:61 - 9 * i] = True
    return holes


def test_hole_psnr_before_scikit_image():
    "peak_signal_noise_ratio of the levels of the missing pixels alone, all images together."
    judge = pytest.importorskip("skimage.metrics")
    x, y, holes = drawn_cats(4), drawn_cats(4, seed=1), inner_holes()
    made, real = (to_uint8(z)[holes.expand_as(z)].numpy() for z in (x, y))
    assert hole_psnr(x, y, holes) == pytest.approx(judge.peak_signal_noise_ratio(real, made, data_range=255), rel=1e-6)


def test_hole_ssim_before_torchmetrics():
    """structural_similarity_index_measure with even 7x7 windows, as a map. (scikit-image's own: in test_fid.py.)

    It divides variances by 49, scikit-image's default by 48, which is the same as a constant 0.03^2 that is 48/49 of
    it. At the border, which no hole reaches here, they mirror pixels in different ways."""
    judge = pytest.importorskip("torchmetrics.functional.image")
    pytest.importorskip("skimage")
    x, y, holes = drawn_cats(4), drawn_cats(4, seed=1), inner_holes()
    _, maps = judge.structural_similarity_index_measure(
        to_uint8(x).double(), to_uint8(y).double(), gaussian_kernel=False, kernel_size=7, data_range=255.0,
        k2=0.03 * (48 / 49) ** 0.5, return_full_image=True)
    assert hole_ssim(x, y, holes) == pytest.approx(maps[holes.expand_as(maps)].mean().item(), rel=1e-9)


def test_perplexity_before_scipy():
    "exp of scipy.stats.entropy, whose natural logarithm is ours; in float32 here. Some codes are never used."
    stats = pytest.importorskip("scipy.stats")
    tokens = (40 * torch.rand(2000, generator=seeded()) ** 3).long()
    expected = np.exp(stats.entropy(np.bincount(tokens.numpy())))
    assert 5 < expected < 35
    assert perplexity(tokens.view(8, 250), 50) == pytest.approx(expected, rel=1e-5)
