"""What the live page costs: bytes, milliseconds a step in a browser and outside, and what eight bits do to pictures.

usage: MASKGIT_NB_DATA=DIR python benchmarks/live.py [--weights cats64-small] [--images 512] [--parts times quality]
                                                     [--out nbs/results/live.json]

times: medians of `--repeats` calls with one picture, on an idle machine. Chromium runs the files of the live page with
one thread, and with two where the page is isolated (served with COOP and COEP headers); onnxruntime and torch run
the same networks outside of it. A whole mending is a hole in a drawn cat, eight steps, every step decoded.
quality: the photographs of cats64/val with the lab's holes, as in `val_table.py`: FD, KID (x 1000), PSNR inside the
holes, and the cross-entropy of the masked tokens, with the transformer in float and in eight bits.
Needs: pip install 'maskgit_nb[live,browser,fid]', and chromium.
"""
import argparse
import functools
import http.server
import json
import shlex
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from maskgit_nb.cats import drawn_cats
from maskgit_nb.data import open_pairs
from maskgit_nb.fid import image_features, lite_network
from maskgit_nb.files import provenance, save_text
from maskgit_nb.images import random_holes
from maskgit_nb.inpainting import MaskGIT, hole_to_mask
from maskgit_nb.live import export_onnx
from maskgit_nb.masking import mvtm_loss
from maskgit_nb.scores import score
from maskgit_nb.sweeps import mend_all
from maskgit_nb.widgets import pack_hole, png_url

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

TIME_NETWORKS = """async repeats => {
  const ort = await import("./ort.js"), found = {}
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? 2 : 1
  const packed = (await fetch("./ort-wasm-simd-threaded.wasm.gz")).body.pipeThrough(new DecompressionStream("gzip"))
  ort.env.wasm.wasmBinary = await new Response(packed).arrayBuffer()
  const tokens = () => new ort.Tensor("int64", BigInt64Array.from({ length: 256 }, (_, i) => BigInt(4 * i)), [1, 256])
  const pixels = () => new ort.Tensor("float32", new Float32Array(3 * 64 * 64), [1, 3, 64, 64])
  for (const name of ["encoder", "transformer", "decoder"]) {
    const session = await ort.InferenceSession.create(`./${name}.onnx`, { executionProviders: ["wasm"] })
    const times = []
    for (let i = 0; i <= repeats; i++) {
      const begun = performance.now()
      await session.run({ [session.inputNames[0]]: name === "encoder" ? pixels() : tokens() })
      times.push(performance.now() - begun)
    }
    found[name] = times.slice(1).sort((a, b) => a - b)[Math.floor(repeats / 2)]  // the first call warms up
  }
  return found
}"""
TIME_MENDING = """async ([picture, hole, repeats]) => {
  const { Mender, toPixels, unpackHole } = await import("./mender.js"), mender = new Mender(), times = []
  for (let i = 0; i <= repeats; i++) {
    const begun = performance.now()
    await mender.mend(await toPixels(picture, 64), unpackHole(hole, 64), { seed: i })
    times.push(performance.now() - begun)
  }
  return times.slice(1).sort((a, b) => a - b)[Math.floor(repeats / 2)]
}"""


class Onnx(nn.Module):
    "A transformer in a file, in the place of `like`."
    def __init__(self, path: Path, like: nn.Module):
        import onnxruntime
        super().__init__()
        self.config, self.mask_token_id, self.position_embedding = (like.config, like.mask_token_id,
                                                                    like.position_embedding)
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {"tokens": tokens.numpy()})[0])


class Server(http.server.SimpleHTTPRequestHandler):
    "Serves a page; isolated, so that it may use threads, if the class says so."
    isolated = False

    def end_headers(self):
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *args): pass


def median_ms(call, repeats: int) -> float:
    "The median of `repeats` calls in milliseconds, after one that warms up."
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[1:])


def browser_times(weights: str, int8: bool, repeats: int) -> list[dict]:
    "Rows of what Chromium needs, with one thread and with two."
    import live_page
    from playwright.sync_api import sync_playwright
    rows, hole = [], random_holes(1, generator=torch.Generator().manual_seed(0))
    picture = png_url(drawn_cats(1, 1)[0])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        files = live_page.contents(weights, int8) | {"index.html": "<!doctype html><title>live</title>"}
        for name, content in files.items():
            Path(folder, name).write_bytes(content.encode() if isinstance(content, str) else content)
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        for isolated in (False, True):
            handler = type("Isolated", (Server,), {"isolated": isolated})
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            page = chromium.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            times = page.evaluate(TIME_NETWORKS, repeats)
            whole = page.evaluate(TIME_MENDING, [picture, pack_hole(hole), repeats])
            named = f"Chromium {chromium.version.split('.')[0]}, WASM"
            rows.append(dict(runtime=named, threads=1 + isolated, int8=int8, **times, mending=whole))
            print(rows[-1], flush=True)
            page.close()
            server.shutdown()
        chromium.close()
    return rows


def outside_times(model: MaskGIT, folder: Path, repeats: int) -> list[dict]:
    "Rows of what onnxruntime and torch need for the same."
    import onnxruntime
    tokens, images = torch.arange(0, 1024, 4)[None], torch.zeros(1, 3, 64, 64)
    hole, cat = random_holes(1, generator=torch.Generator().manual_seed(0)), drawn_cats(1, 1)
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        for int8 in (False, True):
            row = dict(runtime="onnxruntime", threads=threads, int8=int8)
            for name, x in (("encoder", images), ("transformer", tokens), ("decoder", tokens)):
                session = onnxruntime.InferenceSession(str(folder / ("int8" if int8 else "float") / f"{name}.onnx"),
                                                       options, providers=["CPUExecutionProvider"])
                given = {session.get_inputs()[0].name: x.numpy()}
                row[name] = median_ms(functools.partial(session.run, None, given), repeats)
            rows.append(row)
            print(rows[-1], flush=True)
        with torch.no_grad():
            rows.append(dict(runtime="torch", threads=threads, int8=False,
                             encoder=median_ms(lambda: model.vqgan.latents(images), repeats),
                             transformer=median_ms(lambda: model.transformer(tokens), repeats),
                             decoder=median_ms(lambda: model.vqgan.decode(tokens), repeats),
                             mending=median_ms(lambda: model.inpaint(cat, hole), repeats)))
        print(rows[-1], flush=True)
    return rows


def quality(model: MaskGIT, folder: Path, count: int) -> list[dict]:
    "A row for the transformer in float and in eight bits."
    images, holes, data = open_pairs(count)
    network, rows = lite_network(), []
    true = image_features(images, network)
    tokens = torch.cat([model.vqgan.encode(part) for part in images.split(64)])
    mask = hole_to_mask(holes)
    for kind in ("float", "int8"):
        other = MaskGIT(model.vqgan, Onnx(folder / kind / "transformer.onnx", model.transformer))
        losses = [mvtm_loss(other.transformer(t.masked_fill(m, 1024)), t, m, 0.0).item() * m.sum().item()
                  for t, m in zip(tokens.split(64), mask.split(64), strict=True)]
        made = mend_all(other, images, holes)
        rows.append(dict(transformer=kind, data=data, cross_entropy=sum(losses) / mask.sum().item(),
                         **score(images, made, holes, network, true)))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cats64-small")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=["times", "quality"], default=["times", "quality"])
    parser.add_argument("--out", type=Path, help="JSON; parts that are not asked for stay as they are there")
    args = parser.parse_args()
    model = MaskGIT.from_pretrained(args.weights)
    made = json.loads(args.out.read_text(encoding="utf-8")) if args.out and args.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        made["bytes"] = {kind: export_onnx(model, folder / kind, kind == "int8") for kind in ("float", "int8")}
        if "times" in args.parts:
            rows = [row for int8 in (False, True) for row in browser_times(args.weights, int8, args.repeats)]
            made["times"] = rows + outside_times(model, folder, args.repeats)
        if "quality" in args.parts: made["quality"] = quality(model, folder, args.images)
    made |= provenance(shlex.join(["python", "benchmarks/live.py", *sys.argv[1:]]), seed=0)
    if args.out: save_text(json.dumps(made, indent=1) + "\n", args.out)


if __name__ == "__main__": main()
