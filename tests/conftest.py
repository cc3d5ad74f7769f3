"""What the tests share: a tiny untrained model whose forward pass takes milliseconds, and the real cats where there are
any."""
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, settings

from maskgit_nb.data import data_root
from maskgit_nb.inpainting import Evidence, EvidenceConfig, MaskGIT, Refiner, RefinerConfig
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig
from maskgit_nb.vqgan import VQGAN, VQGANConfig

settings.register_profile("stable", derandomize=True, deadline=None, max_examples=40, database=None,
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
settings.register_profile("soak", settings.get_profile("stable"), derandomize=False, max_examples=2000)
SOAK = bool(os.environ.get("MASKGIT_NB_SOAK"))  # `make soak`
settings.load_profile("soak" if SOAK else "stable")

SIZE, GRID, CODES, CODE_DIM = 16, 4, 24, 8
ENCODER = (("unshuffle", 2), ("conv", 12, 8, 3), ("down", 8), ("res", 8, 8, 1), ("norm", 8), ("silu",),
           ("conv", 8, CODE_DIM, 1))
DECODER = (("conv", CODE_DIM, 8, 3), ("res", 8, 8, 3), ("up", 8), ("norm", 8), ("silu",), ("conv", 8, 12, 3),
           ("shuffle", 2))
VQGAN_CONFIG = VQGANConfig(ENCODER, DECODER, image_size=SIZE, codebook_size=CODES, latent_dim=CODE_DIM)
TRANSFORMER_CONFIG = TransformerConfig(num_tokens=GRID**2, codebook_size=CODES, dim=16, layers=2, heads=2, hidden=32,
                                       code_dim=CODE_DIM, local=True)


def pytest_configure(config):
    "Say why a test was skipped, without being asked."
    if "s" not in config.option.reportchars: config.option.reportchars += "s"


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that no core has nothing to do while the last of them runs on another.
    What is marked `soak` takes long, and a shorter test beside it tries nearly the same."""
    for item in items:
        if item.get_closest_marker("soak") and not SOAK: item.add_marker(pytest.mark.skip(reason="long: make soak"))
    longest = ("test_lab", "test_notebooks", "test_site", "test_exercises", "test_cli", "test_fid",
               "test_gpu_programme", "test_processes", "test_widgets", "test_training", "test_device",
               "test_experiments", "test_properties")
    items.sort(key=lambda item: longest.index(item.path.stem) if item.path.stem in longest else len(longest))


def tiny_maskgit(seed: int = 0) -> MaskGIT:
    "A MaskGIT on 16x16 pixels, 4x4 tokens and 24 codes, its weights drawn wide enough for uneven predictions."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vqgan = VQGAN(VQGAN_CONFIG)
        transformer = BidirectionalTransformer(TRANSFORMER_CONFIG, vqgan.quantizer.codebook)
        for p in transformer.parameters():
            if p.ndim > 1: torch.nn.init.normal_(p, std=0.3)
        refiner = Refiner(RefinerConfig(width=8, blocks=1))
        torch.nn.init.normal_(refiner.layers[-2].weight, std=0.1)
        evidence = Evidence(EvidenceConfig(8, 1, SIZE // GRID, CODES, CODE_DIM))
        for part in (evidence.scores.weight, evidence.bias): torch.nn.init.normal_(part, std=0.3)
    return MaskGIT(vqgan, transformer, refiner, evidence)


@pytest.fixture(scope="session")
def make_maskgit():
    "A function that builds a tiny MaskGIT from a seed: for tests that train or change it."
    return tiny_maskgit


@pytest.fixture(scope="session")
def maskgit() -> MaskGIT:
    "The tiny MaskGIT for tests that only use it."
    return tiny_maskgit().requires_grad_(False)


@contextmanager
def in_double() -> Iterator[None]:
    """Within, networks compute in float64, for tests in which two ways of computing choose the same tokens or train
    alike. In float32 rounding, another on every processor, may decide between two codes; and where a gradient should be
    0 Adam, which divides it by its size or by 1e-8, makes of what rounding leaves a step as large as the learning rate.
    In float64 it leaves 1e-16, and the step is at most 1e-8 of that."""
    with patch.object(torch.Tensor, "float", torch.Tensor.double):
        torch.set_default_dtype(torch.float64)
        try: yield
        finally: torch.set_default_dtype(torch.float32)


@pytest.fixture
def smooth_adam(monkeypatch: pytest.MonkeyPatch):
    """For such tests where float64 cannot be had: with so large an `eps` a step follows the gradient smoothly, down to
    0."""
    monkeypatch.setattr(torch.optim, "AdamW", partial(torch.optim.AdamW, eps=1e-3))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The folder of the tiny MaskGIT's weights, for the command line; not to be written to."
    folder = tmp_path_factory.mktemp("weights")
    tiny_maskgit().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def processes():
    """Starts processes that have imported, once for all, what takes seconds in lessons and training; torch._dynamo is
    what the first optimizer asks for."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["accelerate", "hypothesis", "matplotlib.pyplot", "maskgit_nb.cli", "nbdev.test",
                                    "pytest", "torch._dynamo"])
    return context


@pytest.fixture(scope="module")
def browser():
    """A Chromium: of the system, or Playwright's own. Closed with each module, since its event loop would keep others
    from running theirs."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no browser tests: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        try: chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        except sync_api.Error as error:
            pytest.skip("no browser: apt install chromium, or playwright install chromium "
                        f"({str(error).splitlines()[0]})")
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Where screenshots are kept: the folder that MASKGIT_NB_SHOTS names, or pytest's own."
    folder = Path(os.environ.get("MASKGIT_NB_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cats_data() -> Path:
    "The folder or zip with the real cats that MASKGIT_NB_DATA names, for `find_split`."
    if not os.environ.get("MASKGIT_NB_DATA"):
        pytest.skip("MASKGIT_NB_DATA is not set: give it the folder that holds the cats' train/ and val/, or "
                    "cats64.zip")
    return data_root()
