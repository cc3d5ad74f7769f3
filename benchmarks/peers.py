"Other people's transformers at a given size, under the kit's `decode`, and the lab report's loop, for comparison."
import math

import torch
from torch import Tensor, nn

from maskgit_nb.schedules import cosine
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig


class Peer(nn.Module):
    "Tokens (B,N) to logits (B,N,K): an embedding of tokens and places, somebody's blocks, and a head as the kit's."
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config, self.mask_token_id, dim, codes = config, config.codebook_size, config.dim, config.codebook_size
        self.token_embedding = nn.Embedding(codes + 1, dim)
        self.position_embedding = nn.Parameter(torch.randn(config.num_tokens, dim))
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, codes))
        self.blocks = self.make_blocks(config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.run(self.token_embedding(tokens) + self.position_embedding))

    def run(self, x: Tensor) -> Tensor: return self.blocks(x)


class TorchEncoder(Peer):
    "torch's own `nn.TransformerEncoder`."
    def make_blocks(self, config: TransformerConfig) -> nn.Module:
        layer = nn.TransformerEncoderLayer(config.dim, config.heads, config.hidden, activation="gelu",
                                           batch_first=True, norm_first=config.norm_first)
        return nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(config.dim), enable_nested_tensor=False)


class Muse(Peer):
    "lucidrains' muse-maskgit-pytorch: every block also attends to a text, here one token long."
    def make_blocks(self, config: TransformerConfig) -> nn.Module:
        from muse_maskgit_pytorch.muse_maskgit_pytorch import TransformerBlocks
        mult = 1.5 * config.hidden / config.dim  # it takes two thirds of it
        return TransformerBlocks(dim=config.dim, depth=config.layers, dim_head=config.dim // config.heads,
                                 heads=config.heads, ff_mult=mult)

    def run(self, x: Tensor) -> Tensor: return self.blocks(x, context=x.new_zeros(len(x), 1, x.shape[-1]))


class Amused(nn.Module):
    "diffusers' aMUSEd network, with one convolutional block before and after, and a text of one token."
    def __init__(self, config: TransformerConfig):
        super().__init__()
        from diffusers.models.unets.uvit_2d import UVit2DModel
        self.config, self.mask_token_id, self.side = config, config.codebook_size, math.isqrt(config.num_tokens)
        dim = config.dim
        self.net = UVit2DModel(hidden_size=dim, cond_embed_dim=dim, micro_cond_encode_dim=dim,
                               micro_cond_embed_dim=5 * dim, encoder_hidden_size=dim, in_channels=dim,
                               vocab_size=config.codebook_size + 1, codebook_size=config.codebook_size,
                               block_out_channels=dim, num_res_blocks=1, block_num_heads=config.heads,
                               num_hidden_layers=config.layers, num_attention_heads=config.heads,
                               intermediate_size=config.hidden, sample_size=self.side)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, dim = len(tokens), self.config.dim
        text, pooled = torch.zeros(batch, 1, dim), torch.zeros(batch, dim)
        logits = self.net(tokens.view(batch, self.side, self.side), text, pooled, torch.zeros(batch, 5))
        return logits.flatten(2).transpose(1, 2)


PEERS = {"nn.TransformerEncoder": TorchEncoder, "muse-maskgit-pytorch": Muse, "diffusers, aMUSEd": Amused}


@torch.no_grad()
def report_loop(transformer: BidirectionalTransformer, tokens: Tensor, mask: Tensor, steps: int = 8) -> None:
    "The lab report's loop: a picture at a time, all logits, p + T * Gumbel (the field's facts are in lesson 07)."
    for one, hidden in zip(tokens.split(1), mask.split(1), strict=True):
        start, attempt = int(hidden.sum()), one
        for number in range(1, steps + 1):
            shares = transformer(attempt.masked_fill(hidden, transformer.mask_token_id)).softmax(-1)
            drawn = torch.multinomial(shares[0], 1).T
            p = shares.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
            noise = -torch.empty_like(p).exponential_().log()
            score = (p + 4.5 * (1 - number / steps) * noise).masked_fill(~hidden, torch.inf)
            attempt = torch.where(hidden, drawn, attempt)
            hidden = score.argsort(dim=-1).argsort(dim=-1) < int(start * cosine(number / steps))
