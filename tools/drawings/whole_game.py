"The whole line, from a cat with a hole to a mended one, with shapes, and the lessons that open the arrows (lesson 00)."
import base64
import io

import torch
import torch.nn.functional as F
from draw import EDGE, Drawing
from torch import Tensor

from maskgit_nb import MaskGIT, drawn_cats, hole_to_mask
from maskgit_nb.images import to_picture
from maskgit_nb.inpainting import smooth_fill

SIDE, GAP, TOP, DARK = 96, 76, 74, torch.tensor([-0.8, -0.8, -0.8]).view(3, 1, 1)


def picture(d: Drawing, x: Tensor, left: float) -> None:
    "An image (3,H,W) as a square of SIDE pixels at `left`, no pixel smoothed."
    data = io.BytesIO()
    to_picture(x).save(data, "PNG", optimize=True)
    code = base64.b64encode(data.getvalue()).decode()
    square = f'x="{left:g}" y="{TOP}" width="{SIDE}" height="{SIDE}"'
    d.parts.append(f'<image {square} style="image-rendering:pixelated" href="data:image/png;base64,{code}"/>')
    d.parts.append(f'<rect {square} fill="none" stroke="{EDGE}"/>')


def bars(d: Drawing, shares: list[float], left: float) -> None:
    "Shares as bars in a square of SIDE pixels at `left`."
    d.box(left, TOP, SIDE, SIDE, kind="data")
    for i, share in enumerate(shares):
        height, x = share / max(shares) * (SIDE - 22), left + 8 + i * (SIDE - 14) / len(shares)
        colour = "#E69F00" if i == 0 else "#0072B2"
        top = TOP + SIDE - 8 - height
        d.parts.append(f'<rect x="{x:.1f}" y="{top:.1f}" width="7" height="{height:.1f}" fill="{colour}"/>')


def draw() -> Drawing:
    model, cat = MaskGIT.from_pretrained("cats64-small"), drawn_cats(1, seed=10)
    hole = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    hole[..., 32:44, 31:46] = True
    mask = hole_to_mask(hole)
    result = model.inpaint(cat, hole, steps=8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        seen = model.vqgan.encode(smooth_fill(cat, hole))
        before, after = (F.avg_pool2d(model.vqgan.decode(tokens), 4)[0] for tokens in (seen, result.tokens))
        logits = model.transformer(seen.masked_fill(mask, model.transformer.mask_token_id))
    middle = mask[0].nonzero()[mask.sum() // 2].item()
    likeliest = logits[0, middle].softmax(-1).topk(9).values.tolist()

    lefts = [20 + i * (SIDE + GAP) for i in range(6)]
    d = Drawing(lefts[-1] + SIDE + 20, 264,
                "The whole line. A cat with a hole (3,64,64) is encoded into 16x16 tokens (256); those under the hole "
                "are masked; the transformer gives each of them 1,024 logits; the surest are chosen, and the rest is "
                "masked again, eight times over; the 256 tokens are decoded, and the known pixels are put back.")
    with_gaps = torch.where(mask.view(1, 16, 16), DARK, before)
    pictures = cat[0].masked_fill(hole[0], 0), before, with_gaps, after, result.images[0]
    for i, x in zip((0, 1, 2, 4, 5), pictures, strict=True): picture(d, x, lefts[i])
    bars(d, likeliest, lefts[3])
    names = ("pixels", "tokens", "tokens with gaps", "logits", "tokens", "mended")
    shapes = ("(3,64,64)", "(256)", "(256)", "(256,1024)", "(256)", "(3,64,64)")
    for left, name, shape in zip(lefts, names, shapes, strict=True):
        d.text(left + SIDE / 2, TOP - 14, name, 13, bold=True)
        d.text(left + SIDE / 2, TOP + SIDE + 14, shape, 11, mono=True)
    arrows = (("encode", "02"), ("mask", "05"), ("transformer", "03, 04"), ("choose", "06, 07"), ("decode", "02, 08"))
    for left, (name, lessons) in zip(lefts, arrows, strict=False):
        start, middle = left + SIDE, TOP + SIDE / 2
        d.arrow((start + 5, middle), (start + GAP - 5, middle))
        d.text(start + GAP / 2, middle - 12, name, 11)
        d.text(start + GAP / 2, middle + 14, lessons, 11, colour="#0072B2")
    below, left, right = TOP + SIDE + 26, lefts[2] + SIDE / 2, lefts[4] + SIDE / 2
    d.arrow((right, below), (right, below + 32), (left, below + 32), (left, below + 2), dashed=True)
    d.text(lefts[3] + SIDE / 2, below + 46, "eight times: keep the surest, mask the rest again", 12)
    d.text(lefts[0], 24, "The whole line", 14, anchor="start", bold=True)
    d.text(lefts[-1] + SIDE, 24, "blue: the lessons that open the arrow", 12, anchor="end", colour="#0072B2")
    return d
