"""The lab's checkpoints: small reference networks in the lab's layout and names, saved, loaded by `load_lab_vqgan` and
`load_lab_transformer`, and compared number by number."""
import pytest
import torch
import torch.nn.functional as F
from conftest import in_double
from torch import nn

from maskgit_nb.inpainting import MaskGIT, load_lab_transformer, load_lab_vqgan

CODES, GRID, SIZE = 48, 4, 16


# ---- the reference, written from the layout alone -------------------------------------------------------------------
class Norm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gn = nn.GroupNorm(32, channels, eps=1e-6)

    def forward(self, x): return self.gn(x)


class Swish(nn.Module):
    def forward(self, x): return x * torch.sigmoid(x)


class Residual(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.block = nn.Sequential(Norm(c_in), Swish(), nn.Conv2d(c_in, c_out, 3, 1, 1),
                                   Norm(c_out), Swish(), nn.Conv2d(c_out, c_out, 3, 1, 1))
        if c_in != c_out: self.channel_up = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x): return (self.channel_up(x) if hasattr(self, "channel_up") else x) + self.block(x)


class NonLocal(nn.Module):
    def __init__(self, channels, wrapped=True):
        super().__init__()
        self.gn = Norm(channels) if wrapped else nn.GroupNorm(32, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.shape
        n = self.gn(x)
        q, k, v = (f(n).reshape(b, c, h * w) for f in (self.q, self.k, self.v))
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * c**-0.5, dim=2)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).reshape(b, c, h, w))


class Resize(nn.Module):
    def __init__(self, channels, up):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1) if up else nn.Conv2d(channels, channels, 3, 2, 0)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class Side(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.model = nn.Sequential(*layers)


class Codebook(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.embedding = nn.Embedding(CODES, dim)


class LabVQGAN(nn.Module):
    def __init__(self, dim=64, wrapped=True, late=False):
        super().__init__()
        early_down, late_down = ([], [Resize(64, up=False)]) if late else ([Resize(32, up=False)], [])
        self.encoder = Side(nn.Conv2d(3, 32, 3, 1, 1), Residual(32, 32), *early_down, Residual(32, 64), *late_down, Resize(64, up=False),
                            Residual(64, 64), NonLocal(64, wrapped), Residual(64, 64), Norm(64), Swish(), nn.Conv2d(64, dim, 3, 1, 1))
        self.decoder = Side(nn.Conv2d(dim, 64, 3, 1, 1), Residual(64, 64), NonLocal(64, wrapped), Resize(64, up=True), Residual(64, 32),
                            Resize(32, up=True), Norm(32), Swish(), nn.Conv2d(32, 3, 3, 1, 1))
        self.codebook = Codebook(dim)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)

    def encode(self, x):
        z = self.quant_conv(self.encoder.model(x)).permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cdist(z, self.codebook.embedding.weight, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)

    def decode(self, tokens):
        z = self.codebook.embedding(tokens).view(len(tokens), GRID, GRID, -1).permute(0, 3, 1, 2)
        return self.decoder.model(self.post_quant_conv(z)).clamp(-1, 1)


class Attention(nn.Module):
    "A student's own module: `names` of q, k, v, out, or of qkv, out."
    def __init__(self, dim, heads, names, bias):
        super().__init__()
        self.heads, self.names = heads, names
        for name in names[:-1]: self.add_module(name, nn.Linear(dim, 3 * dim if len(names) == 2 else dim, bias=bias))
        self.add_module(names[-1], nn.Linear(dim, dim))

    def forward(self, x):
        *inputs, out = (getattr(self, name) for name in self.names)
        q, k, v = inputs[0](x).chunk(3, -1) if len(inputs) == 1 else (f(x) for f in inputs)
        split = lambda t: t.view(*t.shape[:2], self.heads, -1).transpose(1, 2)
        weights = (split(q) @ split(k).transpose(2, 3) / (x.shape[2] / self.heads) ** 0.5).softmax(-1)
        return out((weights @ split(v)).transpose(1, 2).reshape(x.shape))


class LabBlock(nn.Module):
    def __init__(self, dim, hidden, heads, names, bias):
        super().__init__()
        self.Attention = Attention(dim, heads, names, bias)
        self.LayerNorm1, self.LayerNorm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.MLP = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(0.1))

    def forward(self, x):
        x = self.LayerNorm1(x + self.Attention(x))
        return self.LayerNorm2(x + self.MLP(x))


class LabTransformer(nn.Module):
    def __init__(self, codes=CODES, n=GRID**2, dim=32, hidden=64, layers=3, heads=4, names=("qkv", "proj"), bias=True):
        super().__init__()
        self.tok_emb = nn.Embedding(codes + 1, dim)
        self.pos_emb = nn.Parameter(torch.zeros(n, dim))
        self.blocks = nn.Sequential(*(LabBlock(dim, hidden, heads, names, bias) for _ in range(layers)))
        self.Token_Prediction = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, eps=1e-12))
        self.LN = nn.LayerNorm(dim, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(n, codes + 1))

    def forward(self, tokens):
        h = self.Token_Prediction(self.blocks(self.LN(self.tok_emb(tokens) + self.pos_emb)))
        return h @ self.tok_emb.weight.T + self.bias


def randomised(model, seed=0):
    "Every parameter random, norms and biases too, so that one loaded into the wrong place shows."
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        scale = 0.5 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 and "emb" not in name else 0.3
        nn.init.normal_(p, mean=1.0 if p.ndim == 1 and name.endswith("weight") else 0.0, std=scale)
    return model.eval()


@pytest.fixture
def save(tmp_path):
    def to_file(found, name="checkpoint.pt"):
        torch.save(found, tmp_path / name)
        return tmp_path / name
    return to_file


# ---- they fit -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [dict(), dict(wrapped=False), dict(late=True), dict(dim=32)])
@in_double()
def test_vqgan_gives_the_same_tokens_and_images(save, options):
    lab = randomised(LabVQGAN(**options))
    ours = load_lab_vqgan(save(lab.state_dict()), image_size=SIZE)
    x = torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        lab.codebook.embedding.weight.copy_(lab.quant_conv(lab.encoder.model(x)).permute(0, 2, 3, 1).flatten(0, 2)[:CODES] + 0.01)
        ours = load_lab_vqgan(save(lab.state_dict()), image_size=SIZE)
        tokens = lab.encode(x)
        assert len(tokens.unique()) > CODES // 2, "the codes should be in use, or the test says little"
        assert torch.equal(ours.encode(x), tokens)
        torch.testing.assert_close(ours.decode(tokens), lab.decode(tokens), atol=1e-4, rtol=0)
        assert lab.decode(tokens).std() > 0.05
    assert ours.config.grid == GRID and ours.config.codebook_size == CODES and not ours.training


ATTENTIONS = [("qkv", "proj"), ("to_qkv", "to_out"), ("q", "k", "v", "out"), ("query", "key", "value", "proj"), ("W_q", "W_k", "W_v", "W_o"),
              ("to_q", "to_k", "to_v", "to_out"), ("q_proj", "k_proj", "v_proj", "out_proj"), ("queries", "keys", "values", "fc_out"),
              ("linear_q", "linear_k", "linear_v", "linear"), ("Wq", "Wk", "Wv", "output_projection")]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("names", ATTENTIONS, ids=lambda names: names[0])
def test_transformer_gives_the_same_logits(save, names, bias):
    lab = randomised(LabTransformer(names=names, bias=bias))
    ours = load_lab_transformer(save(lab.state_dict()), heads=4)
    tokens = torch.randint(CODES + 1, (5, GRID**2), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(): expected, logits = lab(tokens)[..., :CODES], ours(tokens)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_transformer_at_the_labs_width(save):
    lab = randomised(LabTransformer(codes=1024, n=256, dim=768, hidden=1536, layers=2, heads=16, names=("query", "key", "value", "out")))
    ours = load_lab_transformer(save(lab.state_dict()))
    assert (ours.config.layers, ours.config.heads, ours.config.hidden) == (2, 16, 1536)
    tokens = torch.randint(1025, (1, 256), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(): torch.testing.assert_close(ours(tokens), lab(tokens)[..., :1024], atol=1e-4, rtol=0)


def wrappings(state, part):
    yield state
    yield {"state_dict": state, "epoch": 3}
    yield {"model": {f"module.{name}": value for name, value in state.items()}, "optimizer": {"state": {}}}
    yield {f"{part}.{name}": value for name, value in state.items()} | {"other.weight": torch.zeros(2)}
    yield {f"module.{part}.{name}": value for name, value in state.items()}
    yield {"state_dict": {f"model.{part}.{name}": value for name, value in state.items()}}
    yield {part: state, "step": 1}


def test_wrapped_checkpoints(save):
    transformer, vqgan = randomised(LabTransformer()), randomised(LabVQGAN())
    for n, found in enumerate(wrappings(transformer.state_dict(), "transformer")):
        assert torch.equal(load_lab_transformer(save(found, f"{n}.pt"), heads=4).token_embedding.weight, transformer.tok_emb.weight)
    for n, found in enumerate(wrappings(vqgan.state_dict(), "vqgan")):
        assert torch.equal(load_lab_vqgan(save(found, f"v{n}.pt"), image_size=SIZE).quantizer.embedding.weight, vqgan.codebook.embedding.weight)


def test_both_stages_mend_and_become_safetensors(save, tmp_path):
    both = {f"vqgan.{name}": value for name, value in randomised(LabVQGAN()).state_dict().items()}
    both |= {f"transformer.{name}": value.half() for name, value in randomised(LabTransformer()).state_dict().items()}
    path = save(both)
    model = MaskGIT(load_lab_vqgan(path, image_size=SIZE), load_lab_transformer(path, heads=4))
    x, holes = torch.zeros(2, 3, SIZE, SIZE), torch.zeros(2, 1, SIZE, SIZE, dtype=torch.bool)
    holes[:, :, :7, :9] = True
    model.save_pretrained(tmp_path / "ours")
    mended = [m.inpaint(x, holes, steps=3, generator=torch.Generator().manual_seed(0)).images
              for m in (model, MaskGIT.from_pretrained(tmp_path / "ours"))]
    assert torch.equal(*mended)


# ---- they do not fit ------------------------------------------------------------------------------------------------
def changed(state, add=None, drop=(), reshape=()):
    state = {name: value for name, value in state.items() if name not in drop}
    return {name: value[:-1] if name in reshape else value for name, value in state.items()} | (add or {})


@pytest.mark.parametrize("change, says", [
    (dict(drop=["blocks.1.LayerNorm2.bias"]), r"missing.*blocks\.1\.norm2\.bias \(32\)"),
    (dict(add={"blocks.1.Attention.relative": torch.zeros(3, 5)}), r"unexpected.*relative \(3,5\)"),
    (dict(reshape=["blocks.0.MLP.2.weight"]), r"shape.*blocks\.0\.mlp\.2\.weight \(31,64\) for \(32,64\)"),
    (dict(drop=["bias"]), r"missing.*bias \(16,48\)"),
    (dict(drop=["pos_emb"]), r"missing.*pos_emb"),
    (dict(drop=[f"blocks.{i}.Attention.{n}" for i in range(3) for n in ("qkv.weight", "qkv.bias")]), r"missing.*blocks\.2\.attention\.qkv\.weight"),
])
def test_transformer_mismatches_are_named(save, change, says):
    with pytest.raises(ValueError, match=says): load_lab_transformer(save(changed(LabTransformer().state_dict(), **change)), heads=4)


@pytest.mark.parametrize("change, says", [
    (dict(drop=["decoder.model.3.conv.bias"]), r"missing.*decoder\.4\.conv\.bias \(64\)"),
    (dict(add={"discriminator.0.weight": torch.zeros(1, 2)}), r"unexpected.*discriminator\.0\.weight \(1,2\)"),
    (dict(add={"encoder.model.11.mystery": torch.zeros(4)}), r"unexpected.*encoder\.model\.11\.mystery \(4\)"),
    (dict(drop=["codebook.embedding.weight"]), r"missing.*codebook\.embedding\.weight"),
    (dict(reshape=["encoder.model.0.bias"]), r"shape.*encoder\.0\.bias \(31\) for \(32\)"),
    (dict(drop=["quant_conv.weight", "quant_conv.bias"]), r"missing: quant_conv\.weight"),
    (dict(drop=[name for name in LabVQGAN().state_dict() if name.startswith("encoder.model.5.")]), r"missing: encoder\.model\.5;"),
    (dict(drop=[name for name in LabVQGAN().state_dict() if name.startswith("decoder.")]), r"missing: decoder\.model\.0;"),
    (dict(drop=["decoder.model.8.weight", "decoder.model.8.bias"]), "16x16 pixels to tokens and back"),
])
def test_vqgan_mismatches_are_named(save, change, says):
    with pytest.raises(ValueError, match=says): load_lab_vqgan(save(changed(LabVQGAN().state_dict(), **change)), image_size=SIZE)


def test_unknown_attention_names_are_listed(save):
    with pytest.raises(ValueError, match=r"missing.*qkv\.weight.*unexpected.*anna\.weight \(32,32\)"):
        load_lab_transformer(save(LabTransformer(names=("anna", "berta", "clara", "out")).state_dict()), heads=4)


@pytest.mark.parametrize("load", [load_lab_vqgan, load_lab_transformer])
def test_files_that_are_no_checkpoints(save, tmp_path, load):
    with pytest.raises(ValueError, match="pickled.*Linear.*state_dict"): load(save(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="no tensors by name"): load(save({"epoch": 3}))
    with pytest.raises(ValueError, match="no tensors by name"): load(save([torch.zeros(2)]))
    with pytest.raises(FileNotFoundError, match="no checkpoint"): load(tmp_path / "absent.pt")
    whole = save(LabTransformer().state_dict(), "whole.pt").read_bytes()
    for content in (b"", b"hello world", whole[:len(whole) // 2]):
        (tmp_path / "broken.pt").write_bytes(content)
        with pytest.raises(ValueError, match="cannot read"): load(tmp_path / "broken.pt")
