"""The university lab's checkpoints. The judge is `tests/lab/`: files that the lab's own classes wrote, narrow and with
random weights, and what these classes make of the same pictures and tokens. Nothing here says a second time how the
lab's networks calculate."""
import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from maskgit_nb import cli, lab
from maskgit_nb.attention import MultiHeadAttention
from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import main
from maskgit_nb.data import find_split
from maskgit_nb.images import random_holes, to_picture
from maskgit_nb.inpainting import MaskGIT, visible_evidence
from maskgit_nb.lab import CUTS, OTHER_WAYS, attend, lab_doubt, load_lab, load_lab_transformer, load_lab_vqgan
from maskgit_nb.masking import mvtm_loss, random_mask
from maskgit_nb.training import TrainConfig, changed_settings, run_settings
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig
from maskgit_nb.vqgan import VQGAN, VQGANConfig, lab_vqgan

LAB = Path(__file__).parent / "lab"
VQGAN_PT, FUSED, REPORT = LAB / "VQGAN.pt", LAB / "transformer_fused.pt", LAB / "transformer_report.pt"
EXPECTED = load_file(LAB / "expected.safetensors")
SHAPES = json.loads((LAB / "full_size_shapes.json").read_text(encoding="utf-8"))
HEADS = 16


def read(path: Path) -> dict: return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def vqgan() -> VQGAN: return load_lab_vqgan(VQGAN_PT).requires_grad_(False)


@pytest.fixture(scope="module")
def model(vqgan) -> MaskGIT: return MaskGIT(vqgan, load_lab_transformer(FUSED).requires_grad_(False))


@pytest.fixture
def save(tmp_path):
    def to_file(found, name="checkpoint.pt"):
        torch.save(found, tmp_path / name)
        return tmp_path / name
    return to_file


def pictures() -> Tensor:
    "The lab's pictures in our scale."
    return EXPECTED["pictures"].float() / 127.5 - 1


def prefixed(prefix: str, state: dict) -> dict: return {prefix + name: x for name, x in state.items()}


def same_pictures(vqgan: VQGAN) -> None:
    "Fail unless `vqgan` makes of the lab's pictures what the lab's did."
    tokens = vqgan.encode(pictures())
    assert torch.equal(tokens, EXPECTED["tokens"])
    assert (vqgan.decode(tokens) - (2 * EXPECTED["pictures_made"] - 1)).abs().max() < 2 / 255
    with torch.no_grad(): raw = vqgan.decoder(vqgan.quantizer.lookup(tokens))
    torch.testing.assert_close(raw, EXPECTED["decoded"], atol=1e-4, rtol=0)


def same_logits(transformer: BidirectionalTransformer) -> None:
    "Fail unless `transformer` gives the lab's logits."
    with torch.no_grad(): logits = transformer(EXPECTED["masked"])
    torch.testing.assert_close(logits, EXPECTED["logits"], atol=1e-4, rtol=0)


# ---- what the files hold --------------------------------------------------------------------------------------------
def test_the_vqgan_makes_the_labs_tokens_and_pictures(vqgan):
    same_pictures(vqgan)
    assert (vqgan.config.grid, vqgan.config.codebook_size, vqgan.training) == (16, 256, False)


def test_the_scale_of_pictures_is_the_labs_inside_and_ours_outside(vqgan):
    assert vqgan.config.mean == (0.4868, 0.4341, 0.3844) and vqgan.config.std == (0.2620, 0.2527, 0.2543)
    torch.testing.assert_close(vqgan.encoder(EXPECTED["given"]), vqgan.latents(pictures()), atol=1e-5, rtol=0)
    made = vqgan(pictures()).images.clamp(-1, 1)
    torch.testing.assert_close(made, 2 * EXPECTED["pictures_made"] - 1, atol=1e-4, rtol=0)
    other = VQGAN(replace(vqgan.config, mean=(0.5,) * 3, std=(0.5,) * 3)).eval()
    other.load_state_dict(vqgan.state_dict())
    assert (other.encode(pictures()) != EXPECTED["tokens"]).float().mean() > 0.5, "or this test says nothing"
    whole = torch.zeros(4, 1, 64, 64, dtype=torch.bool)  # without a hole, the evidence names the lab's own tokens
    assert torch.equal(visible_evidence(vqgan, pictures(), whole, 1.0).argmax(-1), EXPECTED["tokens"])


@pytest.mark.parametrize("path", [FUSED, REPORT], ids=["fused", "report"])
def test_the_transformer_gives_the_labs_logits(path):
    transformer = load_lab_transformer(path)
    same_logits(transformer)
    config = transformer.config
    assert (config.layers, config.heads, config.hidden, transformer.training) == (2, HEADS, 128, False)


def test_converted_they_give_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = MaskGIT.from_pretrained(tmp_path)
    same_pictures(again.vqgan)
    same_logits(again.transformer)
    assert again.vqgan.config == model.vqgan.config
    def seeded(): return torch.Generator().manual_seed(0)
    holes = random_holes(4, 64, seeded())
    mended = [m.inpaint(pictures(), holes, steps=2, generator=seeded()).images for m in (model, again)]
    assert torch.equal(*mended) and torch.equal(mended[0].masked_fill(holes, 0), pictures().masked_fill(holes, 0))


def test_weights_of_ours_have_our_scale():
    vqgan, x = VQGAN.from_pretrained("cats64-small"), drawn_cats(2)
    with torch.no_grad(): assert torch.equal(vqgan.latents(x), vqgan.encoder(x))
    assert vqgan.config.mean == vqgan.config.std == (0.5, 0.5, 0.5)


# ---- the lab's full size --------------------------------------------------------------------------------------------
def zeros(part: str) -> dict: return {name: torch.zeros(shape, device="meta") for name, shape in SHAPES[part].items()}


def shapes(module: nn.Module) -> dict: return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_the_lab_preset_is_the_labs_network_tensor_for_tensor(monkeypatch):
    config = VQGANConfig.preset("lab")
    narrow = lab_vqgan((32, 32, 32, 32, 32, 64), (32, 32, 32, 32, 64), 32, codebook_size=256)
    assert narrow == load_lab_vqgan(VQGAN_PT).config  # the same plan, at the widths of the file
    with torch.device("meta"):
        vqgan, transformer = VQGAN(config), BidirectionalTransformer(TransformerConfig.preset("lab"))
    assert sum(p.numel() for p in vqgan.parameters()) == sum(x.numel() for x in zeros("VQGAN").values()) == 70_775_299
    monkeypatch.setattr(torch, "load", lambda path, **_: {"first": zeros("VQGAN"), "second": zeros("transformer")})
    for way in ("encode", "decode"): monkeypatch.setattr(VQGAN, way, lambda self, x: x)  # which zeros cannot
    with torch.device("meta"): found, second = load_lab_vqgan(VQGAN_PT), load_lab_transformer(FUSED)
    assert found.config == config and shapes(found) == shapes(vqgan)
    assert second.config == TransformerConfig.preset("lab") and shapes(second) == shapes(transformer)


# ---- the ways of saving ---------------------------------------------------------------------------------------------
NUMPY = {"best": np.int64(7), "done": np.bool_(True), "seed": np.uint32(1), "share": np.float16(0.5)}
WRAPPINGS = {
    "bare": lambda state, part: state,
    "model": lambda state, part: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "epoch": 3},
    "scheduler": lambda state, part: {"epoch": 3, "scheduler": {"last_epoch": 3}, "model": state},
    "model_state_dict": lambda state, part: {"model_state_dict": state, "optimizer": {"param_groups": [{"lr": 1e-4}]}},
    "state_dict": lambda state, part: {"state_dict": state, "epoch": 3},
    "transformer_parameter": lambda state, part: {"transformer_parameter": state},
    "numpy history": lambda state, part: {"model": state, "losses": [np.float64(6.5), np.float32(6.25)]} | NUMPY,
    "several GPUs": lambda state, part: {"model": prefixed("module.", state)},
    "whole model": lambda state, part: prefixed(f"{part}.", state) | {"other.weight": torch.zeros(2)},
    "whole model, wrapped": lambda state, part: {"net": {"weights": prefixed(f"module.model.{part}.", state)}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_every_way_of_saving_loads(save, wrap):
    same_logits(load_lab_transformer(save(wrap(read(FUSED), "transformer"), "t.pt")))
    found = load_lab_vqgan(save(wrap(read(VQGAN_PT), "vqgan"), "v.pt"))
    assert torch.equal(found.quantizer.embedding.weight, read(VQGAN_PT)["codebook.embedding.weight"])


def test_one_file_may_hold_both_stages(save, vqgan):
    half = {name: x.half() for name, x in read(FUSED).items()}
    found = load_lab(save(prefixed("vqgan.", read(VQGAN_PT)) | prefixed("transformer.", half)))
    same_pictures(found.vqgan)
    assert found.transformer.token_embedding.weight.dtype == torch.float32


def test_numbers_that_numpy_1_wrote(tmp_path):
    "numpy 2 has moved the constructor to another module; files from before name the old one."
    found = {"model": read(FUSED), "loss": [np.float64(6.5)]}
    torch.save(found, tmp_path / "new.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "new.pt").read_bytes()
    old = content.replace(b"cnumpy._core.multiarray\nscalar", b"cnumpy.core.multiarray\nscalar")
    assert b"cnumpy.core.multiarray\nscalar" in old  # as numpy 1 writes it by itself
    (tmp_path / "old.pt").write_bytes(old)
    same_logits(load_lab_transformer(tmp_path / "old.pt"))


def attention(rename) -> dict:
    "The lab's fused file with its attention as `rename(block, q, k, v, proj)` has it, each a (weight, bias)."
    state, changed = read(FUSED), {}
    for i in range(2):
        block = f"blocks.{i}.Attention."
        thirds = zip(*(state.pop(f"{block}qkv.{kind}").chunk(3) for kind in ("weight", "bias")), strict=True)
        proj = tuple(state.pop(f"{block}proj.{kind}") for kind in ("weight", "bias"))
        for name, (weight, bias) in rename(*thirds, proj).items():
            changed |= {f"{block}{name}.weight": weight, f"{block}{name}.bias": bias}
    return state | changed


def named(*names): return lambda *layers: dict(zip(names, layers, strict=True))


def heads_apart(pattern: str):
    def rename(q, k, v, proj):
        apart = {}
        for role, (weight, bias) in dict(q=q, k=k, v=v).items():
            pairs = zip(weight.chunk(HEADS), bias.chunk(HEADS), strict=True)
            apart |= {pattern.format(role=role, head=head): pair for head, pair in enumerate(pairs)}
        return dict(sorted(apart.items())) | {"proj": proj}  # sorted as text: 10 comes before 2
    return rename


def heads_fused(q, k, v, proj):
    weights, biases = ([x.chunk(HEADS) for x in kind] for kind in zip(q, k, v, strict=True))
    def whole(kind, i): return torch.cat([heads[i] for heads in kind])
    return {f"heads.{i}.qkv": (whole(weights, i), whole(biases, i)) for i in range(HEADS)} | {"out": proj}


ATTENTIONS = {names[0]: named(*names) for names in [
    ("linear_q", "linear_k", "linear_v", "linear_out"), ("mul_W_Q", "mul_W_K", "mul_W_V", "mul_W_O"),
    ("q", "k", "v", "out"), ("query", "key", "value", "proj"), ("W_q", "W_k", "W_v", "W_o"),
    ("to_q", "to_k", "to_v", "to_out.0"), ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("queries", "keys", "values", "fc_out"), ("Wq", "Wk", "Wv", "output_projection")]}
APART = "heads.{head}.{role}", "linear_{role}.{head}", "attn_heads.{head}.W_{role}", "head{head}_{role}"
ATTENTIONS |= {pattern: heads_apart(pattern) for pattern in APART} | {"heads.0.qkv": heads_fused}


@pytest.mark.parametrize("rename", ATTENTIONS.values(), ids=ATTENTIONS.keys())
def test_every_name_of_attention_gives_the_labs_logits(save, rename):
    state = attention(rename)
    assert not any(name.endswith("Attention.qkv.weight") for name in state)
    apart = sum("blocks.0" in name for name in state) > 30
    same_logits(load_lab_transformer(save(state), heads=4 if apart else HEADS))  # the file's own number of heads holds


def test_layers_without_bias(save):
    state = read(REPORT)["model"]
    zeroed = {name: torch.zeros_like(x) if re.search(r"linear_[qkv]\.bias", name) else x for name, x in state.items()}
    absent = {name: x for name, x in state.items() if not re.search(r"linear_[qkv]\.bias", name)}
    logits = [load_lab_transformer(save(x))(EXPECTED["masked"]) for x in (zeroed, absent)]
    assert torch.equal(*logits)


# ---- what is refused ------------------------------------------------------------------------------------------------
def refusal(load, *args) -> str:
    "What the ValueError says; it must be short."
    with pytest.raises(ValueError) as stop: load(*args)
    said = str(stop.value)
    assert len(said) < 700 + 3 * len(str(args[0])) and said.count("\n") < 3, said[:300]
    return said


def changed(path: Path, add=None, drop=(), cut=()) -> dict:
    state = {name: value for name, value in read(path).items() if not any(re.match(pattern, name) for pattern in drop)}
    return {name: value[:-1] if name in cut else value for name, value in state.items()} | (add or {})


@pytest.mark.parametrize("change, says", [
    (dict(drop=["blocks.1.LayerNorm2.bias"]), r"missing: blocks\.1\.norm2\.bias \(64\)"),
    (dict(add={"blocks.1.Attention.relative": torch.zeros(3, 5)}), r"unexpected: .*relative \(3,5\)"),
    (dict(cut=["blocks.0.MLP.2.weight"]), r"shape: blocks\.0\.mlp\.2\.weight \(63,128\) for \(64,128\)"),
    (dict(cut=["blocks.0.Attention.proj.bias"]), "cannot be stacked"),
    (dict(drop=["bias"]), r"missing: bias \(256,256\)"),
    (dict(drop=["pos_emb"]), "missing: pos_emb"),
    (dict(drop=[r"blocks\.\d\.Attention\.qkv"]), r"missing: blocks\.0\.attention\.qkv\.bias .* and 1 more"),
    (dict(drop=["blocks"]), r"missing: blocks\.0\.MLP\.0\.weight"),
    (dict(drop=["tok_emb"]), "holds no transformer of the lab"),
])
def test_transformers_that_do_not_fit(save, change, says):
    assert re.search(says, refusal(load_lab_transformer, save(changed(FUSED, **change))))


@pytest.mark.parametrize("change, says",
                         [(dict(drop=[r"decoder\.model\.10\.conv\.bias"]), r"missing: decoder\.11\.conv\.bias \(64\)"),
                          (dict(add={"discriminator.0.weight": torch.zeros(1, 2)}),
                           r"unexpected: discriminator\.0\.weight \(1,2\)"),
                          (dict(add={"encoder.model.19.mystery": torch.zeros(4)}),
                           r"unexpected: encoder\.model\.19\.mystery \(4\)"),
                          (dict(drop=["codebook"]), "holds no vqgan of the lab"),
                          (dict(cut=["encoder.model.0.bias"]), r"shape: encoder\.0\.bias \(31\) for \(32\)"),
                          (dict(drop=["quant_conv"]), r"missing: quant_conv\.weight"),
                          (dict(drop=[r"encoder\.model\.8\."]), r"missing: encoder\.model\.8\b"),
                          (dict(drop=[r"encoder\.model\.12\."]), r"missing: encoder\.model\.12\b"),
                          (dict(drop=["decoder"]), r"missing: decoder\.model\.0"),
                          (dict(drop=["encoder", "decoder"]), r"missing: decoder\.model\.0, encoder\.model\.0"),
                          (dict(drop=[r"decoder\.model\.25\."]), "64x64 pixels to tokens and back"),
                          (dict(add={"encoder.model.0.weight": torch.zeros(16, 3, 3, 3),
                                     "encoder.model.0.bias": torch.zeros(16)}), "64x64 pixels to tokens and back"),])
def test_vqgans_that_do_not_fit(save, change, says):
    assert re.search(says, refusal(load_lab_vqgan, save(changed(VQGAN_PT, **change))))


def test_files_of_another_network(save):
    layers = {f"layer{i}.{'x' * 60}.weight": torch.zeros(2, 2) for i in range(40)}
    only = {"tok_emb.weight": torch.zeros(5, 4)}
    for found in ({}, layers, {"model": layers}, layers | only, {"epoch": 3}, [torch.zeros(2)], torch.zeros(2)):
        path = save(found)
        for load in (load_lab_vqgan, load_lab_transformer): assert str(path) in refusal(load, path)
    taken = read(FUSED) | layers | {f"blocks.{i}.{'y' * 60}.weight": torch.zeros(2) for i in range(40)}
    assert "and 77 more" in refusal(load_lab_transformer, save(taken))
    assert "holds no transformer" in refusal(load_lab_transformer, VQGAN_PT)
    assert "holds no vqgan" in refusal(load_lab_vqgan, FUSED)
    assert "anna" in refusal(load_lab_transformer, save(attention(named("anna", "berta", "clara", "out"))))
    assert "multiple of num_heads" in refusal(load_lab_transformer, FUSED, 7)


class Trap:
    "A pickle that leaves a trace when it is loaded."
    def __init__(self, trace: Path): self.trace = trace

    def __reduce__(self): return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("load", [load_lab_vqgan, load_lab_transformer])
def test_nothing_in_a_file_is_run(save, tmp_path, load):
    trace = tmp_path / "trace"
    trap = Trap(trace)
    for found in (trap, {"model": read(FUSED), "x": trap}, {"x": [np.float64(1), trap]}, nn.Linear(2, 2)):
        said = refusal(load, save(found))
        assert "which could run code" in said and "state_dict" in said and said.count(". ") == 0
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Trap(trace)))
    refusal(load, tmp_path / "raw.pt")
    assert not trace.exists()


@pytest.mark.parametrize("load", [load_lab_vqgan, load_lab_transformer])
def test_damaged_files(tmp_path, load):
    with pytest.raises(FileNotFoundError, match="no checkpoint"): load(tmp_path / "absent.pt")
    whole = FUSED.read_bytes()
    for content in (b"", b"hello world", whole[:len(whole) // 2]):
        (tmp_path / "broken.pt").write_bytes(content)
        assert "cannot read" in refusal(load, tmp_path / "broken.pt")


# ---- another's arithmetic under the same names ----------------------------------------------------------------------
CODES, DIM, OWN_HEADS = 24, 32, 4
SIZES = dict(num_tokens=16, codebook_size=CODES, dim=DIM, layers=1, heads=OWN_HEADS, hidden=64)
SMALL = replace(TransformerConfig.preset("lab"), **SIZES)


def columns(n: int, generator: torch.Generator) -> Tensor:
    "Tokens (n,16) of a 4x4 grid whose columns are each of one code, evenly drawn: only the context tells a masked one."
    return torch.randint(CODES, (n, 1, 4), generator=generator).expand(n, 4, 4).reshape(n, 16)


@pytest.fixture(scope="module")
def trained() -> BidirectionalTransformer:
    "A transformer in the lab's shape that knows `columns`."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = BidirectionalTransformer(SMALL).eval()  # without dropout
        nn.init.normal_(transformer.position_embedding, std=0.3)
        nn.init.normal_(transformer.token_embedding.weight, std=0.3)
    optimizer, generator = torch.optim.AdamW(transformer.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    for _ in range(200):
        tokens, mask = columns(32, generator), random_mask(torch.full((32,), 0.5), 16, generator=generator)
        optimizer.zero_grad()
        mvtm_loss(transformer(tokens.masked_fill(mask, CODES)), tokens, mask, 0.0).backward()
        optimizer.step()
    return transformer.requires_grad_(False)


def in_the_labs_names(transformer: BidirectionalTransformer, rows) -> dict:
    "As the lab's code saves it, if its fused layer has our `rows` in another order."
    names = dict(token_embedding="tok_emb", position_embedding="pos_emb", norm="LN", predict="Token_Prediction",
                 attention="Attention", mlp="MLP", norm1="LayerNorm1", norm2="LayerNorm2")
    def theirs(name: str) -> str: return ".".join(names.get(part, part) for part in name.split("."))
    found = {theirs(name): x for name, x in transformer.state_dict().items()}
    assert found.keys() <= read(FUSED).keys()
    found["bias"] = torch.cat([found["bias"], torch.zeros(16, 1)], 1)
    return {name: rows(x) if "qkv" in name else x for name, x in found.items()}


def judged(transformer: BidirectionalTransformer, vqgan: VQGAN) -> str:
    "What is said of a transformer on the tokens it knows."
    model = MaskGIT(vqgan, transformer)
    model.vqgan.encode = lambda images: columns(128, torch.Generator().manual_seed(5))
    return lab_doubt(model, torch.zeros(128, 3, 16, 16))


def thirds(x: Tensor) -> Tensor: return x.unflatten(0, (3, OWN_HEADS, DIM // OWN_HEADS))


@pytest.mark.parametrize("rows, fits", [
    (lambda x: x, True),
    (lambda x: thirds(x).transpose(0, 1).flatten(0, 2), False),  # qkv viewed as (heads, 3, d), as in some code
    (lambda x: thirds(x).transpose(1, 2).flatten(0, 2), False),  # heads cut as every fourth number
    (lambda x: x.roll(DIM, 0), False),  # v, q, k
], ids=["as ours", "heads first", "strided heads", "v first"])
def test_a_file_of_another_arithmetic_is_noticed(save, make_maskgit, trained, rows, fits):
    path = save(in_the_labs_names(trained, rows))
    assert (judged(load_lab_transformer(path, OWN_HEADS), make_maskgit().vqgan) == "") == fits


def viewed(qkv: Tensor) -> tuple: return qkv.view(3, len(qkv), OWN_HEADS, 16, DIM // OWN_HEADS).unbind(0)
def untransposed(qkv: Tensor) -> list: return [part.reshape(len(qkv), OWN_HEADS, 16, -1) for part in qkv.chunk(3, -1)]


@pytest.mark.parametrize("cut", [viewed, untransposed])
def test_heads_cut_by_a_view_are_noticed(monkeypatch, make_maskgit, trained, cut):
    "Trained in one way and run in the other: which of the two is whose does not matter."
    monkeypatch.setattr(MultiHeadAttention, "split_heads", lambda self, x: cut(self.qkv(x)))
    # the lab's cut with another number of heads: this network needs but one
    assert "better with" in judged(trained, make_maskgit().vqgan)
    monkeypatch.setitem(OTHER_WAYS, "the lab's way", {})
    assert "better with the lab's way" in judged(trained, make_maskgit().vqgan)


@pytest.mark.parametrize("cut, name", [(viewed, "one view"), (untransposed, "three views")])
def test_views_cut_what_students_code_cuts(cut, name):
    qkv = torch.randn(3, 16, 3 * DIM, generator=torch.Generator().manual_seed(0))
    assert torch.equal(CUTS[name](qkv, OWN_HEADS), torch.stack(tuple(cut(qkv))))


# it looks at one token alone: no scale matters
WAYS = {"as the lab": {}} | {name: way for name, way in OTHER_WAYS.items() if "power" not in way}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_a_file_was_trained_in_is_named(monkeypatch, make_maskgit, trained, way):
    "Trained as the lab and loaded by code that calculates another `way`: which of the two is whose does not matter."
    monkeypatch.setitem(OTHER_WAYS, "the lab's way", {})
    monkeypatch.setattr(MultiHeadAttention, "forward", lambda self, x: attend(self, x, **WAYS[way]))
    said = judged(trained, make_maskgit().vqgan)
    assert said == "" if way == "as the lab" else "better with the lab's way" in said


def test_another_number_of_heads_is_named(make_maskgit, trained, save):
    path = save(in_the_labs_names(trained, lambda x: x))
    assert f"better with {OWN_HEADS} heads" in judged(load_lab_transformer(path, 8), make_maskgit().vqgan)


# the least visible
@pytest.mark.parametrize("way",
                         [dict(power=0.5), dict(power=0.0), dict(cut="three views", join_by_view=True), dict(heads=8)])
def test_shipped_weights_are_noticed_in_another_way(monkeypatch, way):
    "Even so they guess better than by frequency: that alone would let them pass."
    monkeypatch.setattr(lab, "OTHER_WAYS", {"the lab's way": {}})
    monkeypatch.setattr(MultiHeadAttention, "forward", lambda self, x: attend(self, x, **way))
    assert "better with the lab's way" in lab_doubt(MaskGIT.from_pretrained("cats64-small"), drawn_cats(8, seed=2))


def test_what_was_never_trained_is_noticed(make_maskgit):
    said = judged(BidirectionalTransformer(SMALL), make_maskgit().vqgan)
    assert "not trained" in said and "no file tells" in said and "\n" not in said and ". " not in said


def test_shipped_weights_are_not_doubted():
    assert lab_doubt(MaskGIT.from_pretrained("cats64-small"), drawn_cats(8, seed=2)) == ""


# ---- on the command line --------------------------------------------------------------------------------------------
@pytest.fixture
def drawn(monkeypatch): monkeypatch.delenv("MASKGIT_NB_DATA", raising=False)


def warnings(capsys) -> list[str]:
    "What the command line itself has said."
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("maskgit-nb")]


def test_convert_writes_our_format_and_says_what_it_doubts(drawn, tmp_path, capsys):
    assert main(["--device", "cpu", "convert", str(VQGAN_PT), str(REPORT), "--out", str(tmp_path / "both")]) == 0
    said = warnings(capsys)
    assert len(said) == 1 and "16 drawn cats no better" in said[0]  # the weights are random
    same_pictures(VQGAN.from_pretrained(tmp_path / "both"))
    same_logits(BidirectionalTransformer.from_pretrained(tmp_path / "both"))


def test_convert_without_a_transformer(drawn, tmp_path, capsys):
    assert main(["convert", str(VQGAN_PT), "--out", str(tmp_path / "first")]) == 0
    made = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert made == ["converted.jsonl", "vqgan.safetensors"] and not warnings(capsys)


def test_convert_one_file_with_both(drawn, save, tmp_path):
    whole = prefixed("vqgan.", read(VQGAN_PT)) | prefixed("transformer.", read(FUSED))
    assert main(["convert", str(save(whole)), "--out", str(tmp_path / "both"), "--heads", "8"]) == 0
    assert BidirectionalTransformer.from_pretrained(tmp_path / "both").config.heads == 8


def test_convert_leaves_nothing_where_a_file_does_not_fit(tmp_path, capsys):
    for files in ([FUSED], [VQGAN_PT, VQGAN_PT], [VQGAN_PT, FUSED, "--heads", 7], [tmp_path / "absent.pt"]):
        assert main(["convert", *map(str, files), "--out", str(tmp_path / "none")]) == 1
        assert len(warnings(capsys)) == 1 and not (tmp_path / "none").exists()


def test_weights_takes_the_labs_files_as_they_are(drawn, model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    to_picture(pictures()[0]).save(tmp_path / "in" / "image_000.png")
    mask = Image.new("L", (64, 64), 255)
    mask.paste(0, (48, 0, 64, 64))
    mask.save(tmp_path / "mask_000.png")
    hole = str(tmp_path / "mask_000.png")
    inpaint = ["--device", "cpu", "inpaint", str(tmp_path / "in"), "--hole", hole, "--steps", "2"]
    model.save_pretrained(tmp_path / "ours")
    for name, weights in dict(lab=f"{VQGAN_PT},{FUSED}", ours=tmp_path / "ours").items():
        assert main([*inpaint, "--out", str(tmp_path / name), "--weights", str(weights)]) == 0
        assert ["no better" in line for line in warnings(capsys)] == ([True] if name == "lab" else [])
    assert (tmp_path / "lab" / "image_000.png").read_bytes() == (tmp_path / "ours" / "image_000.png").read_bytes()
    assert main([*inpaint, "--out", str(tmp_path / "x"), "--weights", str(VQGAN_PT)]) == 1
    assert "holds no transformer" in warnings(capsys)[0]


def test_train_takes_the_labs_vqgan(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cli, "fit_maskgit", lambda model, *args, **options: seen.append(model))
    def build(config, codes):
        with torch.device("meta"): return BidirectionalTransformer(config)  # 73 M parameters, none of them made
    monkeypatch.setattr(cli, "BidirectionalTransformer", build)
    options = ["--preset", "lab", "--vqgan", str(VQGAN_PT), "--data", "drawn:1", "--out", str(tmp_path)]
    assert main(["--device", "cpu", "train", *options]) == 0
    assert seen[0].transformer.config == replace(TransformerConfig.preset("lab"), codebook_size=256)
    assert seen[0].vqgan.config == load_lab_vqgan(VQGAN_PT).config


def test_a_run_on_the_labs_tokens_keeps_its_scale(tmp_path):
    options = ["--preset", "tiny", "--vqgan", str(VQGAN_PT), "--data", "drawn:2", "--out", str(tmp_path)]
    assert main(["--device", "cpu", "train", *options, "--steps", "1", "--batch-size", "2", "--tracker", "none"]) == 0
    same_pictures(MaskGIT.from_pretrained(tmp_path).vqgan)


def test_runs_of_before_the_scale_go_on(vqgan, tmp_path):
    ours = replace(vqgan.config, mean=(0.5,) * 3, std=(0.5,) * 3)
    models = dict(ours=VQGAN(ours), lab=vqgan)
    now = {name: run_settings(TrainConfig(), model) for name, model in models.items()}
    known = {name: value for name, value in now["ours"]["model"].items() if name not in ("mean", "std")}
    before = now["ours"] | dict(model=known)
    assert changed_settings(before, now["ours"], tmp_path) == []
    with pytest.raises(ValueError, match="another kind"): changed_settings(now["ours"], now["lab"], tmp_path)


# ---- the lab's folders ----------------------------------------------------------------------------------------------
SPLITS = "train", "val", "masked_image", "mask64"
LAYOUTS = {"beside": ("cat_face/train", "cat_face/val", "cat_face/masked_image", "mask64"), "together": SPLITS,
           "all in cat_face": tuple(f"cat_face/{split}" for split in SPLITS)}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_labs_folders_are_found(monkeypatch, tmp_path, layout):
    for name in layout: (tmp_path / name).mkdir(parents=True)
    roots = [tmp_path, Path(".")] + [tmp_path / "cat_face", Path("cat_face")] * (tmp_path / "cat_face").is_dir()
    monkeypatch.chdir(tmp_path)
    for root in roots:
        for name in layout: assert find_split(root, name.split("/")[-1]).resolve() == tmp_path / name
    (tmp_path / layout[3]).rmdir()
    with pytest.raises(FileNotFoundError, match="no mask64"): find_split(roots[-1], "mask64")
