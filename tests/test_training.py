"""Training as it happens: loss falls, accumulation adds up, runs are killed and resumed, and what is written is whole
or absent."""
import itertools
import json
import math
import shutil
import signal
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from conftest import in_double
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from maskgit_nb import stages, training
from maskgit_nb.data import FreshCats, fingerprint
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.stages import (
    VQGANLoss,
    VQGANStage,
    cached_tokens,
    fit_maskgit,
    fit_vqgan,
    image_gradients,
    tokenize,
    training_masks,
    validate_maskgit,
    validation_losses,
)
from maskgit_nb.training import (
    EMA,
    Muon,
    RunLog,
    Stage,
    TrainConfig,
    TrainStep,
    find_checkpoints,
    make_accelerator,
    make_optimizers,
    run_steps,
    terminated,
    warmup_cosine,
)
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig
from maskgit_nb.vqgan import VQGAN, PatchDiscriminator, VectorQuantizer, VQGANConfig, hinge_loss


class Killed(BaseException):
    "The run is cut off, as by Ctrl-C or a lost machine."


class Images(Dataset):
    "`n` pictures of one coloured disc each, 16x16; the run is killed when item number `kill_at` is asked for."
    def __init__(self, n: int = 12, kill_at: int | None = None):
        g = torch.Generator().manual_seed(0)
        y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        centre, radius = torch.rand(n, 2, 1, 1, generator=g) * 8 + 4, torch.rand(n, 1, 1, generator=g) * 3 + 3
        disc = ((y - centre[:, 0]).pow(2) + (x - centre[:, 1]).pow(2) < radius**2).unsqueeze(1)  # (n,1,16,16)
        front, back = torch.rand(2, n, 3, 1, 1, generator=g) * 1.8 - 0.9
        self.images, self.kill_at, self.served = torch.where(disc, front, back), kill_at, 0

    def __len__(self) -> int: return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        self.served += 1
        if self.served == self.kill_at: raise Killed
        return self.images[index]


FAST = TrainConfig(steps=8, batch_size=4, lr=3e-3, warmup=2, log_every=1, validate_every=1000, save_every=3,
                   progress=False)
POINTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))


class Line(Stage):
    "A regression: four numbers to the fifth. Killed before step `kill_at`."
    def __init__(self, accelerator: Accelerator, module: nn.Module, config: TrainConfig, kill_at: int | None = None):
        super().__init__(accelerator, module, config)
        self.kill_at = kill_at

    def train(self, step: TrainStep) -> None:
        if step.number == self.kill_at: raise Killed
        for batch, _ in step:
            with self.accelerator.accumulate(self.module):
                loss = (self.module(batch[:, :4]).squeeze(1) - batch[:, 4]).pow(2).mean()
                self.learn(loss)
            step.note(loss=loss.detach())


def fit_line(out: Path, config: TrainConfig, points: Tensor = POINTS, kill_at: int | None = None, resume: bool = True,
             seed: int = 0, dropout: float = 0.0, width: int = 8) -> tuple[list, nn.Module]:
    "`Line` on `points`, by the same loop as the two stages."
    out.mkdir(exist_ok=True)
    accelerator = make_accelerator(config, device="cpu")
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.Dropout(dropout), nn.Tanh(), nn.Linear(width, 1))
    stage = Line(accelerator, model, config, kill_at)
    return run_steps(stage, points, out, resume=resume), stage.module


def curve(rows: list[dict], with_name: str = "loss") -> list[dict]:
    "The rows that have such a figure, without what depends on the clock."
    return [{name: value for name, value in row.items() if "second" not in name and "time" not in name}
            for row in rows if with_name in row]


def steps(rows: list[dict], with_name: str = "loss") -> list[int]:
    return [row["step"] for row in rows if with_name in row]


def assert_same_curve(rows: list[dict], expected: list[dict]) -> None:
    assert steps(rows) == steps(expected) and steps(rows, "val_psnr") == steps(expected, "val_psnr")
    for row, other in zip(curve(rows), curve(expected), strict=True):
        assert row == pytest.approx(other, abs=1e-6, rel=1e-6)


def assert_same_weights(a: nn.Module | dict, b: nn.Module | dict, atol: float = 1e-6) -> None:
    a, b = (m.state_dict() if isinstance(m, nn.Module) else m for m in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


# --- the parts

def test_warmup_cosine_end_points():
    factors = [warmup_cosine(step, 10, 100) for step in range(101)]
    assert 0 < factors[0] <= 0.1 and factors[10] == 1 == max(factors) and abs(factors[100]) < 1e-9
    assert abs(factors[55] - 0.5) < 1e-9  # half-way down the cosine
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert warmup_cosine(0, 0, 100) == 1 and abs(warmup_cosine(120, 10, 100)) < 1e-9
    assert 0 < warmup_cosine(3, 10, 5) <= 1  # a run shorter than its warm-up


NARROW = dict(num_tokens=16, codebook_size=24, dim=8, layers=1, heads=2, hidden=8)
SMALL = dict(encoder=(("unshuffle", 2), ("conv", 12, 8, 3), ("res", 8, 8, 3), ("attn", 8), ("down", 8), ("norm", 8),
                      ("conv", 8, 4, 1)), decoder=(("conv", 4, 8, 3), ("up", 8), ("conv", 8, 12, 3), ("shuffle", 2)),
             image_size=16, codebook_size=24, latent_dim=4)


@pytest.mark.parametrize("module",
                         [BidirectionalTransformer(TransformerConfig(**NARROW)),
                          BidirectionalTransformer(TransformerConfig(**NARROW, code_dim=4, local=True)),
                          BidirectionalTransformer(TransformerConfig(**NARROW, norm_first=False, position_bias=True)),
                          VQGAN(VQGANConfig(**SMALL)), VQGAN(VQGANConfig(**SMALL, norm="group", l2_normalize=False)),
                          PatchDiscriminator(8),],
                         ids=["plain", "with codes", "lab", "vqgan", "vqgan with group norm", "discriminator"])
def test_weight_decay_spares_biases_norms_and_embeddings(module):
    (optimizer,), _ = make_optimizers(module, replace(FAST, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sorted(decay) == sorted(id(p) for p in module.parameters()) and set(decay.values()) == {0.0, 0.3}
    of_norms = {id(p) for m in module.modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm)) for p in m.parameters()}
    spared = {name
              for name, p in module.named_parameters() if id(p) in of_norms
              or name.split(".")[-1] in ("bias", "code_scale") or "embedding" in name}
    assert {name for name, p in module.named_parameters() if decay[id(p)] == 0} == spared


@pytest.mark.parametrize("decay", [0.999, 0.1])
def test_ema_by_hand(decay):
    model = nn.Linear(3, 2)
    values = [torch.randn(2, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    ema, expected = EMA(model, decay), values[0]
    for n, value in enumerate(values):
        with torch.no_grad(): model.weight.copy_(value)
        ema.update(model)
        if n:  # the first update copies; after it the decay is min(decay, 2/11), then min(decay, 3/12)
            kept = min(decay, (1 + n) / (10 + n))
            expected = kept * expected + (1 - kept) * value
        torch.testing.assert_close(ema.module.weight.data, expected)
    assert torch.equal(model.weight.data, values[-1])


def test_image_gradients_leave_the_discriminator_alone():
    made, real = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made.requires_grad_()
    discriminator = PatchDiscriminator(8)
    plain, metrics = image_gradients(made, real, VQGANLoss(adversarial=0.0), None, None)
    torch.testing.assert_close(plain, (made - real).sign().detach() / made.numel())
    assert metrics["l1"] == pytest.approx((made - real).abs().mean().item())
    both, _ = image_gradients(made, real, VQGANLoss(adversarial=0.7), None, discriminator)
    assert all(p.grad is None for p in discriminator.parameters()) and made.grad is None and not both.requires_grad
    push = both - plain
    assert push.norm().item() == pytest.approx(0.7 * plain.norm().item(), rel=1e-4)
    towards_real, = torch.autograd.grad(discriminator(made).mean(), made)
    # a step against the gradient fools it more
    assert F.cosine_similarity(-push.flatten(), towards_real.flatten(), dim=0) > 0.999


def test_discriminator_is_trained_on_its_own_loss_only(make_maskgit, tmp_path, monkeypatch):
    "Whenever the discriminator steps, its gradient is that of the hinge loss, with nothing of the generator's in it."
    built, losses, checked = [], [], []
    class Watched(PatchDiscriminator):
        def __init__(self):
            super().__init__(8)
            built.append(self)
    def watched_loss(real: Tensor, made: Tensor) -> Tensor:
        losses.append(hinge_loss(real, made))
        return losses[-1]
    def watched_step(self, *args, **options):
        own = list(built[0].parameters())
        if any(p is own[0] for group in self.param_groups for p in group["params"]):
            checked.append([p.grad for p in own])
            for p, expected in zip(own, torch.autograd.grad(losses[-1], own), strict=True):
                torch.testing.assert_close(p.grad, expected)
        return step(self, *args, **options)
    step, backward = torch.optim.AdamW.step, Accelerator.backward
    monkeypatch.setattr(stages, "PatchDiscriminator", Watched)
    monkeypatch.setattr(stages, "hinge_loss", watched_loss)
    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    monkeypatch.setattr(Accelerator, "backward", lambda self, loss,
                        **options: backward(self, loss, retain_graph=True, **options))
    fit_vqgan(make_maskgit().vqgan, Images(), tmp_path, replace(FAST, steps=4), VQGANLoss(adversarial_start=1),
              device="cpu")
    assert len(checked) == 3  # steps 2, 3 and 4


def test_training_masks_hide_at_least_one_and_only_what_a_hole_touches(monkeypatch):
    half = torch.zeros(8, 1, 16, 16, dtype=torch.bool)
    half[..., :8, :] = True
    monkeypatch.setitem(stages.HOLES, "free-form", lambda n, *_: half[:n])
    g = torch.Generator().manual_seed(0)
    for share in (0.0, 0.5, 1.0):
        masks = torch.stack([training_masks(8, 4, 16, "cosine", share, g) for _ in range(40)])
        holed = round(8 * share)
        assert masks.sum(-1).min() >= 1 and not masks[:, :holed, 8:].any()
        # the mean of cos(pi u / 2)
        if holed < 8: assert masks[:, holed:].float().mean() == pytest.approx(2 / math.pi, abs=0.1)
        assert len(set(masks[:, -1].sum(-1).tolist())) > 3  # the share varies from image to image


@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_half_of_the_mixed_holes_are_boxes(n):
    holes = stages.mixed_holes(n, 64, torch.Generator().manual_seed(0))
    rows, columns = holes.any(3).sum((1, 2)), holes.any(2).sum((1, 2))
    assert len(holes) == n and (holes.sum((1, 2, 3)) == rows * columns).sum() == n // 2  # a box fills what bounds it


def test_training_sees_the_holes_that_are_asked_for(make_maskgit, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setitem(stages.HOLES, "mixed", lambda n, size,
                        generator: asked.append(n) or stages.HOLES["free-form"](n, size, generator))
    fit("maskgit", make_maskgit(), tmp_path, replace(FAST, steps=2), hole_share=0.5, holes="mixed")
    assert asked == [FAST.batch_size // 2] * 2
    with pytest.raises(ValueError, match="holes must be free-form or mixed; got 'round'"):
        fit("maskgit", make_maskgit(), tmp_path / "other", FAST, holes="round")


@in_double()
def test_tokenize_is_encode_in_batches(make_maskgit):
    vqgan, images = make_maskgit().vqgan.train(), Images()
    tokens = tokenize(vqgan, images, batch_size=5)
    assert torch.equal(tokens.long(), vqgan.encode(images.images)) and tokens.element_size() <= 2 and vqgan.training


# --- the loop

@pytest.mark.parametrize("accumulate", [2, 4])
@in_double()
def test_accumulated_batches_equal_one_large_batch(tmp_path, accumulate):
    whole = replace(FAST, steps=6, batch_size=8, clip=0.5)
    rows, expected = fit_line(tmp_path / "whole", whole, POINTS.double())
    parted, model = fit_line(tmp_path / "parted", replace(whole, batch_size=8 // accumulate, accumulate=accumulate),
                             POINTS.double())
    assert_same_weights(model, expected, atol=1e-9)
    assert [row["lr"] for row in curve(parted)] == pytest.approx([row["lr"] for row in curve(rows)])


@in_double()
def test_accumulated_batches_equal_one_large_batch_for_the_vqgan(make_maskgit, tmp_path):
    whole, loss = replace(FAST, steps=5, batch_size=8), VQGANLoss(adversarial=0.0, restart_until=0.0)
    models = [make_maskgit().vqgan for _ in range(2)]
    before = {name: value.clone() for name, value in models[0].state_dict().items()}
    fit_vqgan(models[0], Images(), tmp_path / "whole", whole, loss, device="cpu")
    fit_vqgan(models[1], Images(), tmp_path / "parted", replace(whole, batch_size=4, accumulate=2), loss, device="cpu")
    assert_same_weights(*models, atol=1e-9)
    # they did train
    assert max((models[0].state_dict()[name] - value).abs().max() for name, value in before.items()) > 1e-3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_lr_follows_the_optimiser_steps(tmp_path, accumulate):
    rows, _ = fit_line(tmp_path, replace(FAST, accumulate=accumulate))
    assert [row["lr"]
            for row in curve(rows)] == pytest.approx([FAST.lr * warmup_cosine(step, FAST.warmup, FAST.steps)
                                                      for step in range(1, FAST.steps + 1)])


def test_first_step_is_as_large_as_its_lr(tmp_path):
    """Adam's first step moves every weight by lr, whatever the gradient: a loss not divided or a step taken too often
    would show."""
    config = replace(FAST, steps=1, accumulate=3, warmup=4, weight_decay=0.0)
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.0), nn.Tanh(), nn.Linear(8, 1))
    _, after = fit_line(tmp_path, config)
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close((a - b).abs(), torch.full_like(a, config.lr / 4), rtol=1e-3, atol=0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_run_has_the_curve_of_an_undisturbed_one(tmp_path, accumulate):
    config = replace(FAST, accumulate=accumulate)
    expected, whole = fit_line(tmp_path / "whole", config, dropout=0.2)
    for kill_at in (6, 8):  # twice: after checkpoints 3 and 6
        with pytest.raises(Killed): fit_line(tmp_path / "killed", config, kill_at=kill_at, dropout=0.2)
    rows, resumed = fit_line(tmp_path / "killed", config, seed=5, dropout=0.2)
    assert_same_curve(rows, expected)
    assert_same_weights(resumed, whole)


def test_log_is_cut_to_the_resumed_step(tmp_path):
    with pytest.raises(Killed): fit_line(tmp_path, FAST, kill_at=6)
    assert steps(RunLog.read(tmp_path)) == [1, 2, 3, 4, 5]
    # a line cut off by a crash
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file: file.write('{"step": 6, "lo')
    rows = RunLog.read(tmp_path)
    RunLog(tmp_path, 3)
    assert RunLog.read(tmp_path) == rows[:3]
    rows, _ = fit_line(tmp_path, FAST)
    assert steps(rows) == list(range(1, 9))
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()] == rows


def test_checkpoint_of_another_model_is_named(tmp_path):
    fit_line(tmp_path, FAST)
    with pytest.raises(ValueError, match="checkpoint-00000008 does not fit"):
        fit_line(tmp_path, replace(FAST, steps=10), width=9)
    # nothing of the old run is lost
    assert steps(RunLog.read(tmp_path)) == list(range(1, 9)) and find_checkpoints(tmp_path)


def test_newest_checkpoints_are_kept(tmp_path):
    fit_line(tmp_path, replace(FAST, save_every=1, keep=2))
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-00000007", "checkpoint-00000008"]
    assert not list(tmp_path.glob("*partial*"))


def test_a_checkpoint_half_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step:08d}").mkdir()
        (tmp_path / f"checkpoint-{step:08d}" / "model.safetensors").touch()
    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.exists(): raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.shutil, "rmtree", killed)
        training._remove_checkpoint(tmp_path / "checkpoint-00000001")
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-00000002"]
    training._remove_checkpoint(tmp_path / "checkpoint-00000002")  # clears what the first left, too
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_left_by_a_process_killed_after_its_last_step_are_removed(tmp_path, monkeypatch):
    def killed(path: Path) -> None: raise SystemExit
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(training, "_remove_checkpoint", killed)
        fit_line(tmp_path, replace(FAST, save_every=4, keep=1))
    (tmp_path / "checkpoint.removed").mkdir()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-00000004", "checkpoint-00000008"]
    fit_line(tmp_path, replace(FAST, save_every=4, keep=1))
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-00000008"]


def test_finished_run_is_not_run_again(tmp_path):
    rows, model = fit_line(tmp_path, FAST)
    again, resumed = fit_line(tmp_path, FAST, points=POINTS * torch.nan, seed=1)
    assert again == rows
    assert_same_weights(model, resumed, atol=0)


def test_longer_run_goes_on_from_a_finished_one(tmp_path):
    fit_line(tmp_path, FAST)
    rows, _ = fit_line(tmp_path, replace(FAST, steps=10))
    assert steps(rows) == list(range(1, 11))


def test_crash_while_saving_leaves_the_checkpoints_before_it(tmp_path, monkeypatch):
    expected, whole = fit_line(tmp_path / "whole", FAST)
    saved, save_state = [], Accelerator.save_state
    def full_disk(self, folder, *args, **options):
        saved.append(folder)
        if len(saved) < 2: return save_state(self, folder, *args, **options)
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "model.safetensors").write_bytes(b"half a file")
        raise OSError("No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "save_state", full_disk)
        with pytest.raises(OSError, match="No space left"): fit_line(tmp_path / "crashed", FAST)
    assert len(saved) == 2 and [path.name for path in find_checkpoints(tmp_path / "crashed")] == ["checkpoint-00000003"]
    rows, resumed = fit_line(tmp_path / "crashed", FAST, seed=1)
    assert_same_curve(rows, expected)
    assert_same_weights(resumed, whole)
    assert [path.name for path in find_checkpoints(tmp_path / "crashed")] == ["checkpoint-00000006",
                                                                              "checkpoint-00000008"]


def test_run_without_resume_starts_afresh_over_an_old_one(tmp_path):
    fit_line(tmp_path, FAST, seed=1)
    expected, _ = fit_line(tmp_path / "fresh", replace(FAST, steps=6))
    rows, model = fit_line(tmp_path, replace(FAST, steps=6), resume=False)
    assert_same_curve(rows, expected)
    assert find_checkpoints(tmp_path)[-1].name == "checkpoint-00000006"  # what a later run resumes from is this run's
    assert_same_weights(load_file(find_checkpoints(tmp_path)[-1] / "model.safetensors"), model)


def test_loss_that_is_not_a_number_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="nan at step 1") as caught:
        fit_line(tmp_path, FAST, points=POINTS * torch.nan)
    assert "lr" in str(caught.value) and find_checkpoints(tmp_path) == []


def test_diverged_run_leaves_a_checkpoint_to_go_back_to(tmp_path):
    "The loss may be logged less often than checkpoints are saved; broken weights must not push the last good ones out."
    fit_line(tmp_path, replace(FAST, steps=2))
    with pytest.raises(FloatingPointError):
        fit_line(tmp_path, replace(FAST, steps=9, log_every=5, save_every=1, keep=1), points=POINTS * torch.nan)
    weights = load_file(find_checkpoints(tmp_path)[-1] / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


# --- the two stages

def test_vqgan_learns_a_dozen_images(make_maskgit, tmp_path):
    images, model = Images(), make_maskgit().vqgan
    config = replace(FAST, steps=60, batch_size=12, lr=1e-2, warmup=5, validate_every=30, save_every=30)
    rows = fit_vqgan(model, images, tmp_path, config, VQGANLoss(adversarial_start=40), val=images.images, device="cpu")
    losses, validated = [row["l1"] for row in rows if "l1" in row], [row for row in rows if "val_psnr" in row]
    assert len(losses) == 60 and sum(losses[-5:]) / 5 < 0.5 * losses[0]
    assert [row["step"] for row in validated] == [30, 60] and validated[1]["val_psnr"] > validated[0]["val_psnr"] > 5
    assert all(("discriminator" in row) == (row["step"] > 40) for row in rows if "l1" in row)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["00000030.png", "00000060.png"]
    assert_same_weights(VQGAN.from_pretrained(tmp_path), model, atol=0)
    with torch.no_grad(): assert F.l1_loss(model.eval()(images.images).images, images.images) < 0.5 * losses[0]


def test_maskgit_learns_a_dozen_images(make_maskgit, tmp_path):
    images, model = Images(), make_maskgit()
    fit_vqgan(model.vqgan, images, tmp_path / "vqgan", replace(FAST, steps=40, batch_size=12, lr=1e-2),
              VQGANLoss(adversarial=0.0), device="cpu")
    frozen = {name: value.clone() for name, value in model.vqgan.state_dict().items()}
    config = replace(FAST, steps=100, batch_size=12, lr=1e-2, warmup=5, validate_every=50, save_every=50)
    rows = fit_maskgit(model, images, tmp_path / "maskgit", config, label_smoothing=0.0, val=images.images,
                       device="cpu")
    losses, validated = [row["loss"] for row in rows if "loss" in row], [row for row in rows if "val_holes" in row]
    assert len(losses) == 100 and sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert [row["step"] for row in validated] == [50, 100]
    for name in ("val_random", "val_holes"):
        assert validated[1][name] < validated[0][name] and validated[1][name] < math.log(24)
    assert sorted(path.name for path in (tmp_path / "maskgit" / "samples").iterdir()) == ["00000050.png",
                                                                                          "00000100.png"]
    assert_same_weights(model.vqgan, frozen, atol=0)  # the first stage stays fixed
    loaded = MaskGIT.from_pretrained(tmp_path / "maskgit")
    made = [m.generate(2, generator=torch.Generator().manual_seed(0)).images for m in (loaded, model)]
    assert torch.equal(*made)


def test_averaged_weights_are_what_is_written(make_maskgit, tmp_path):
    config = replace(FAST, steps=2, save_every=1, keep=2)
    fit_vqgan(make_maskgit().vqgan, Images(), tmp_path, config, VQGANLoss(adversarial=0.0), device="cpu")
    one, two = (load_file(path / "model.safetensors") for path in find_checkpoints(tmp_path))
    written = load_file(tmp_path / "vqgan.safetensors")
    trained = [name for name in written if name in one and "usage" not in name]
    assert len(trained) > 10 and any(not torch.equal(one[name], two[name]) for name in trained)
    for name in trained: torch.testing.assert_close(written[name], one[name].lerp(two[name], 9 / 11), msg=name)


@pytest.mark.parametrize("kill_at, decay", [(15, 0.99), (27, 0.99), (15, 0.5)],
                         ids=["early", "late", "codes restarting"])
def test_resumed_vqgan_has_the_curve_of_an_undisturbed_one(make_maskgit, tmp_path, kill_at, decay):
    loss, whole, resumed = VQGANLoss(adversarial_start=2, restart_until=1.0,
                                     usage_decay=decay), make_maskgit().vqgan, make_maskgit(1).vqgan
    expected = fit_vqgan(whole, Images(), tmp_path / "whole", FAST, loss, val=Images(5).images, device="cpu")
    with pytest.raises(Killed):
        fit_vqgan(make_maskgit().vqgan, Images(kill_at=kill_at), tmp_path / "killed", FAST, loss, val=Images(5).images,
                  device="cpu")
    assert find_checkpoints(tmp_path / "killed")
    rows = fit_vqgan(resumed, Images(), tmp_path / "killed", FAST, loss, val=Images(5).images, device="cpu")
    assert_same_curve(rows, expected)
    assert_same_weights(resumed, whole, atol=1e-5)


def test_resumed_maskgit_has_the_curve_of_an_undisturbed_one(make_maskgit, tmp_path, monkeypatch):
    calls, masks = [], stages.training_masks
    def killed(*args):
        calls.append(args)
        if len(calls) == 5: raise Killed
        return masks(*args)
    whole, resumed = make_maskgit(), make_maskgit()
    expected = fit_maskgit(whole, Images(), tmp_path / "whole", FAST, device="cpu")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stages, "training_masks", killed)
        fit_maskgit(make_maskgit(), Images(), tmp_path / "killed", FAST, device="cpu")
    assert [path.name for path in find_checkpoints(tmp_path / "killed")] == ["checkpoint-00000003"]
    rows = fit_maskgit(resumed, Images(), tmp_path / "killed", FAST, device="cpu")
    assert_same_curve(rows, expected)
    assert_same_weights(resumed, whole, atol=1e-5)


def test_decoder_alone_learns_and_no_token_changes(make_maskgit, tmp_path):
    model, images = make_maskgit().vqgan, Images()
    tokens, before = model.encode(images.images), model.decode(model.encode(images.images))
    config, loss = replace(FAST, steps=40, batch_size=12, lr=1e-2, ema=0.8), VQGANLoss(adversarial=0.0,
                                                                                       restart_until=1.0)
    fit_vqgan(model, images, tmp_path, config, loss, device="cpu", decoder_only=True)
    assert torch.equal(model.encode(images.images), tokens) and all(p.requires_grad for p in model.parameters())
    assert (model.decode(tokens) - images.images).abs().mean() < 0.8 * (before - images.images).abs().mean()


@pytest.mark.parametrize("changes, words", [(dict(loss_on="known"), "loss_on must be masked or all; got 'known'"),
                                            (dict(schedule="cosin"), "schedule must be one of")])
def test_wrong_settings_of_the_second_stage_are_named(make_maskgit, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        fit_maskgit(make_maskgit(), Images(), tmp_path, FAST, device="cpu", **changes)


def test_loss_on_all_tokens_counts_the_known_ones(make_maskgit, tmp_path):
    config = replace(FAST, steps=1)
    masked, all_tokens = (fit_maskgit(make_maskgit(), Images(), tmp_path / name, config, device="cpu",
                                      loss_on=name)[0]["loss"] for name in ("masked", "all"))
    assert abs(masked - all_tokens) > 1e-3


@in_double()
def test_accumulated_batches_equal_one_large_batch_for_the_transformer(make_maskgit, tmp_path):
    def quiet() -> MaskGIT:
        shape = TransformerConfig(num_tokens=16, codebook_size=24, dim=16, layers=1, heads=2, hidden=32, dropout=0.0)
        torch.manual_seed(0)
        return MaskGIT(make_maskgit().vqgan, BidirectionalTransformer(shape))
    whole = replace(FAST, steps=5, batch_size=8)
    rows = curve(fit_maskgit(quiet(), Images(), tmp_path / "whole", whole, device="cpu"))
    parted = curve(fit_maskgit(quiet(), Images(), tmp_path / "parted", replace(whole, batch_size=2, accumulate=4),
                               device="cpu"))
    for row, other in zip(rows, parted, strict=True): assert row == pytest.approx(other, abs=1e-9)


def test_tokens_may_be_given_in_place_of_images(make_maskgit, tmp_path):
    config, given, ours = replace(FAST, ema=0.0), make_maskgit(), make_maskgit()
    tokens = tokenize(given.vqgan, Images(), progress=False)
    rows = fit_maskgit(given, tokens, tmp_path / "given", config, device="cpu")
    assert_same_curve(rows, fit_maskgit(ours, Images().images, tmp_path / "ours", config, device="cpu"))
    assert_same_weights(given.transformer, ours.transformer, atol=0)
    assert not list((tmp_path / "given").glob("tokens*"))
    newest = load_file(find_checkpoints(tmp_path / "given")[-1] / "model.safetensors")
    # without an average
    assert_same_weights(given.transformer, {name: newest[name] for name in given.transformer.state_dict()}, atol=0)
    for wrong in (tokens[:, :9], tokens + 24, tokens - 25, (Images().images * 127).byte()):
        with pytest.raises(ValueError, match="tokens must be whole numbers .M,16. from 0 to 23; got torch"):
            fit_maskgit(make_maskgit(), wrong, tmp_path / "wrong", config, device="cpu")


def test_losses_by_share_are_those_of_exactly_that_share(maskgit, tmp_path):
    tokens = tokenize(maskgit.vqgan, Images(), progress=False)
    found = validation_losses(maskgit, tokens, shares=(0.25, 1.0))
    assert found == validation_losses(maskgit, tokens, shares=(0.25, 1.0)) and list(found["val_by_share"]) == ["0.25",
                                                                                                               "1.0"]
    assert validation_losses(maskgit, tokens, shares=(1.0,))["val_by_share"]["1.0"] == found["val_by_share"]["1.0"]
    everything = torch.full_like(tokens, maskgit.transformer.mask_token_id).long()
    with torch.no_grad(): logits = maskgit.transformer(everything)
    assert found.pop("val_by_share")["1.0"] == pytest.approx(F.cross_entropy(logits.flatten(0, 1),
                                                                             tokens.long().flatten()).item(), rel=1e-5)
    assert found == validation_losses(maskgit, tokens)
    assert found == validate_maskgit(maskgit, Images().images, tokens.long(), "cosine",
                                     tmp_path / "sheet.png") and (tmp_path / "sheet.png").exists()
    assert {"val_random", "val_holes", "val_random_100"} <= found.keys() <= {"val_random", "val_holes",
                                                                             *(f"val_random_{q}"
                                                                               for q in (25, 50, 75, 100))}


def test_a_checkpoint_of_the_first_stage_without_usage_can_be_read(make_maskgit):
    stage = VQGANStage(make_accelerator(FAST, "cpu"), make_maskgit().vqgan, FAST)
    stage.quantizer.usage.fill_(0.5)
    state = {name: value for name, value in stage.state_dict().items() if name != "usage"}
    stage.load_state_dict(state)
    assert (stage.quantizer.usage == 0.5).all()


def test_what_is_logged_goes_to_the_tracker_too(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Accelerator, "log", lambda self, figures, step: told.append((step, figures.get("loss"))))
    rows, _ = fit_line(tmp_path, replace(FAST, steps=2))
    # two rows of figures and one of a validation
    assert told == [(row["step"], row.get("loss")) for row in rows] and len(told) == 3


def test_tokens_are_kept_until_weights_or_images_change(make_maskgit, tmp_path, monkeypatch):
    accelerator, model, images, calls = make_accelerator(FAST, device="cpu"), make_maskgit().vqgan, Images().images, []
    monkeypatch.setattr(stages, "tokenize", lambda *args, **options: calls.append(1) or tokenize(*args, **options))
    for vqgan, data, expected in ((model, images, 1), (model, images, 1), (make_maskgit(1).vqgan, images, 2),
                                  (model, images + 0.01, 3), (model, images, 3)):
        assert torch.equal(cached_tokens(vqgan, data, tmp_path, accelerator, progress=False),
                           tokenize(vqgan, data, progress=False)) and len(calls) == expected
    assert len(list(tmp_path.iterdir())) == 3  # and no parts left


@pytest.mark.parametrize("shape", [(32, 48), (48, 32)])
def test_muon_orthogonalizes_in_float32_on_a_cpu(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = gradient.clone()
    Muon([weight], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    x, (a, b, c) = gradient.double() / gradient.double().norm(), (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
    for _ in range(5): x = a * x + (b * x @ x.T + c * x @ x.T @ x @ x.T) @ x
    step = 0.2 * max(shape) ** 0.5 * x
    assert (weight.data + step).norm() < 1e-5 * step.norm()  # in bfloat16 some 5e-3
    assert torch.equal(weight.grad, gradient)


def test_run_with_muon_resumes_as_undisturbed(make_maskgit, tmp_path, monkeypatch):
    config = replace(FAST, optimizer="muon")
    whole = curve(fit_maskgit(make_maskgit(), Images(), tmp_path / "whole", config, device="cpu"))
    save = training.save_checkpoint
    def killed_after_step_6(accelerator: Accelerator, out: Path, step: int, *others) -> None:
        save(accelerator, out, step, *others)
        if step == 6: raise Killed
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "save_checkpoint", killed_after_step_6)
        fit_maskgit(make_maskgit(), Images(), tmp_path / "killed", config, device="cpu")
    assert_same_curve(fit_maskgit(make_maskgit(), Images(), tmp_path / "killed", config, device="cpu"), whole)
    assert {type(o).__name__ for o in make_optimizers(make_maskgit().transformer, config)[0]} == {"AdamW", "Muon"}


def test_pictures_that_are_not_numbers_stop_the_vqgan(make_maskgit, tmp_path):
    images = Images()
    images.images[1:] = torch.nan  # the first is looked at before
    with pytest.raises(FloatingPointError, match="nan at step 1"):
        fit_vqgan(make_maskgit().vqgan, images, tmp_path, FAST, device="cpu")
    assert not (tmp_path / "vqgan.safetensors").exists()


# --- the same command with other numbers

def fit(stage: str, model: MaskGIT, out: Path, config: TrainConfig, **options) -> list[dict]:
    if stage == "vqgan":
        return fit_vqgan(model.vqgan, Images(), out, config, VQGANLoss(adversarial_start=2), device="cpu", **options)
    return fit_maskgit(model, Images(), out, config, device="cpu", **options)


@pytest.mark.parametrize("stage", ["vqgan", "maskgit"])
def test_a_resumed_run_takes_the_new_numbers_and_says_so(make_maskgit, tmp_path, capsys, stage):
    fit(stage, make_maskgit(), tmp_path, FAST)
    assert "goes on" not in capsys.readouterr().err
    changed = replace(FAST, steps=12, lr=1e-3, warmup=1, weight_decay=0.5, ema=0.5, batch_size=6)
    rows = [row for row in fit(stage, make_maskgit(), tmp_path, changed) if "loss" in row]
    said = capsys.readouterr().err
    told = ("goes on from step 8", "lr 0.001 (was 0.003)", "steps 12 (was 8)", "weight_decay 0.5 (was 0.01)",
            "ema 0.5 (was 0.999)", "batch_size 6 (was 4)")
    assert all(words in said for words in told)
    # the new rate, at its place on the new course
    for row in rows[8:]: assert row["lr"] == pytest.approx(1e-3 * warmup_cosine(row["step"], 1, 12), abs=1e-12)
    state = torch.load(find_checkpoints(tmp_path)[-1] / "optimizer.bin", weights_only=False)
    assert {group["weight_decay"] for group in state["param_groups"]} == {0.5, 0.0}


def test_another_schedule_of_masks_is_used_and_said(make_maskgit, tmp_path, capsys):
    fit("maskgit", make_maskgit(), tmp_path, FAST)
    fit("maskgit", make_maskgit(), tmp_path, replace(FAST, steps=9), schedule="linear", hole_share=0.0)
    assert "schedule linear (was cosine), hole_share 0.0 (was 0.5)" in capsys.readouterr().err


@pytest.mark.parametrize("changes, words",
                         [(dict(dim=24), "dim 24 (was 16)"),
                          (dict(layers=1, hidden=16), "layers 1 (was 2), hidden 16 (was 32)")])
def test_a_checkpoint_of_another_size_is_refused_in_one_sentence(make_maskgit, tmp_path, changes, words):
    fit("maskgit", make_maskgit(), tmp_path, FAST)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "tokens" not in path.name}
    other = make_maskgit()
    other.transformer = BidirectionalTransformer(replace(other.transformer.config, **changes),
                                                 other.vqgan.quantizer.codebook)
    with pytest.raises(ValueError) as caught: fit("maskgit", other, tmp_path, replace(FAST, steps=9))
    assert words in str(caught.value)
    assert "--restart" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert kept == {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name in kept}


def test_another_optimizer_is_refused(make_maskgit, tmp_path):
    fit("maskgit", make_maskgit(), tmp_path, FAST)
    with pytest.raises(ValueError, match="optimizer muon .was adamw."):
        fit("maskgit", make_maskgit(), tmp_path, replace(FAST, optimizer="muon"))


@pytest.mark.parametrize("stage", ["vqgan", "maskgit"])
def test_a_run_begun_anew_loses_nothing_of_the_old_one(make_maskgit, tmp_path, stage):
    def contents(folder: Path) -> dict:
        files = (path
                 for path in folder.rglob("*") if path.is_file() and "tokens" not in path.name and path.name != ".lock")
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}
    fit(stage, make_maskgit(), tmp_path, FAST)
    first = contents(tmp_path)
    second = fit(stage, make_maskgit(), tmp_path, replace(FAST, steps=3), resume=False)
    assert contents(tmp_path / "before-1") == first and max(steps(second)) == 3
    fit(stage, make_maskgit(), tmp_path, replace(FAST, steps=2), resume=False)
    assert contents(tmp_path / "before-1") == first and max(steps(RunLog.read(tmp_path / "before-2"))) == 3
    # the newest run is gone on with
    assert max(steps(fit(stage, make_maskgit(), tmp_path, replace(FAST, steps=4)))) == 4


def test_another_first_stage_is_refused(make_maskgit, tmp_path):
    fit("maskgit", make_maskgit(), tmp_path, FAST)
    other = MaskGIT(make_maskgit(1).vqgan, make_maskgit().transformer)
    with pytest.raises(ValueError, match="vqgan .* .was"): fit("maskgit", other, tmp_path, replace(FAST, steps=9))


def test_another_kind_of_data_is_refused_and_more_of_it_is_said(make_maskgit, tmp_path, capsys):
    fit_vqgan(make_maskgit().vqgan, Images(), tmp_path, FAST, device="cpu")
    fit_vqgan(make_maskgit().vqgan, Images(20), tmp_path, replace(FAST, steps=9), device="cpu")
    assert "images 20 (was 12)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="stream FreshCats .was none."):
        fit_vqgan(make_maskgit().vqgan, FreshCats(size=16), tmp_path, replace(FAST, steps=10), device="cpu")


def test_a_second_run_in_a_folder_is_refused_while_the_first_is_at_work(make_maskgit, tmp_path):
    with training._hold_folder(tmp_path), pytest.raises(ValueError, match="another run is at work in"):
        fit("vqgan", make_maskgit(), tmp_path, FAST)
    assert max(steps(fit("vqgan", make_maskgit(), tmp_path, FAST))) == 8


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl", "settings.json"])
def test_a_damaged_checkpoint_is_named(make_maskgit, tmp_path, name):
    fit("maskgit", make_maskgit(), tmp_path, FAST)
    newest = find_checkpoints(tmp_path)[-1]
    (newest / name).write_bytes((newest / name).read_bytes()[:20])
    if name == "settings.json": assert max(steps(fit("maskgit", make_maskgit(), tmp_path,
                                                     replace(FAST, steps=9)))) == 9; return
    with pytest.raises(ValueError, match=f"{newest.name} does not fit this model, or is damaged .*remove it"):
        fit("maskgit", make_maskgit(), tmp_path, replace(FAST, steps=9))
    shutil.rmtree(newest)
    assert max(steps(fit("maskgit", make_maskgit(), tmp_path, replace(FAST, steps=9)))) == 9


def test_settings_of_any_kind_can_be_kept(make_maskgit, tmp_path):
    def gamma(u: float, power: int) -> float: return 1 - u**power
    config = replace(FAST, steps=2, lr=np.float32(1e-3))
    rows = fit("maskgit", make_maskgit(), tmp_path, config, schedule=partial(gamma, power=2),
               hole_share=np.float32(0.5))
    kept = json.loads((find_checkpoints(tmp_path)[-1] / "settings.json").read_text(encoding="utf-8"))
    assert max(steps(rows)) == 2
    assert kept["schedule"] == "gamma"
    assert kept["hole_share"] == 0.5
    assert kept["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("options",
                         [dict(hole_share=2.0), dict(hole_share=-0.5), dict(label_smoothing=1.0),
                          dict(label_smoothing=-1.0)])
def test_shares_outside_their_range_are_named_before_any_work(make_maskgit, tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be within"):
        fit("maskgit", make_maskgit(), tmp_path / "run", FAST, **options)
    assert not (tmp_path / "run").exists()


# --- compiled, and in half precision

def quiet_maskgit(make_maskgit) -> MaskGIT:
    "Without dropout, whose draws are others when compiled."
    model = make_maskgit()
    for layer in model.transformer.modules():
        if isinstance(layer, nn.Dropout): layer.p = 0.0
        if isinstance(getattr(layer, "dropout", None), float): layer.dropout = 0.0
    return model


def stop_at(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    "Let the next run be cut off when it has saved step `last`."
    save = training.save_checkpoint
    def killed(accelerator: Accelerator, out: Path, step: int, *others) -> None:
        save(accelerator, out, step, *others)
        if step == last: raise Killed
    monkeypatch.setattr(training, "save_checkpoint", killed)


@pytest.fixture
def quick_compiler(monkeypatch):
    "All of torch.compile but the C++ compiler, which takes most of a minute (benchmarks.gpu runs the real one)."
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize("stage", ["vqgan", "maskgit"])
@pytest.mark.parametrize("first, second", [(True, False), (False, True)],
                         ids=["compiled, then plain", "plain, then compiled"])
def test_compiled_and_plain_runs_go_on_from_each_other(smooth_adam, make_maskgit, tmp_path, monkeypatch, quick_compiler,
                                                       stage, first, second):
    config = replace(FAST, batch_size=12, save_every=4)
    whole, model = quiet_maskgit(make_maskgit), quiet_maskgit(make_maskgit)
    expected = curve(fit(stage, whole, tmp_path / "plain", config))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 4)
        fit(stage, quiet_maskgit(make_maskgit), tmp_path / "mixed", replace(config, compile=first))
    rows = curve(fit(stage, model, tmp_path / "mixed", replace(config, compile=second)))
    for row, other in zip(rows, expected, strict=True): assert row == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert model.state_dict().keys() == whole.state_dict().keys()
    for name in ("mixed", "plain"):
        files = {path.name: load_file(path).keys() for path in (tmp_path / name).glob("*.safetensors")}
        assert files and not any("_orig_mod" in key for keys in files.values() for key in keys)


@pytest.mark.parametrize("stage", ["vqgan", "maskgit"])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_bf16_trains_on_a_cpu_as_float32_does(make_maskgit, tmp_path, quick_compiler, stage, compiled):
    config = replace(FAST, batch_size=12, steps=6)
    expected = curve(fit(stage, quiet_maskgit(make_maskgit), tmp_path / "float32", config))
    rows = curve(fit(stage, quiet_maskgit(make_maskgit), tmp_path / "bf16",
                     replace(config, precision="bf16", compile=compiled)))
    for row, other in zip(rows, expected, strict=True): assert row["loss"] == pytest.approx(other["loss"], rel=0.1)
    assert rows != expected  # it was bf16 indeed
    weights = [value for path in (tmp_path / "bf16").glob("*.safetensors") for value in load_file(path).values()]
    assert weights and not any(value.dtype in (torch.bfloat16, torch.float64) for value in weights)


COUNTS = "steps", "batch_size", "accumulate", "log_every", "validate_every", "save_every", "keep"
OUTSIDE = [(TrainConfig, {name: 0}) for name in (*COUNTS, "lr", "clip")]
OUTSIDE += [(TrainConfig, given)
            for given in (dict(ema=2), dict(ema=1.0), dict(warmup=-5), dict(clip=-1.0), dict(lr=math.nan),
                          dict(beta2=1.0), dict(weight_decay=-0.1), dict(seed=2**32), dict(precision="half"),
                          dict(optimizer="sgd"))]
OUTSIDE += [(VQGANLoss, given)
            for given in (dict(perceptual=-1.0), dict(adversarial=math.nan), dict(restart_until=1.5),
                          dict(adversarial_start=-1), dict(usage_decay=1.0))]


@pytest.mark.parametrize("kind, given", OUTSIDE, ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_settings_outside_of_their_range_are_named(kind, given):
    (name, value), = given.items()
    with pytest.raises(ValueError) as refused: kind(**given)
    assert str(refused.value).startswith(f"{name} must be ") and str(refused.value).endswith(f"; got {value!r}")
    with pytest.raises(ValueError, match=name): replace(kind(), **given)


def test_clip_may_be_without_bound_and_every_number_has_a_range():
    assert TrainConfig(clip=math.inf).clip == math.inf
    for kind in (TrainConfig, VQGANLoss):
        for f in fields(kind):
            assert ("allowed" in f.metadata) == (f.name not in ("compile", "progress")), f.name


def test_the_first_stage_refuses_an_optimizer_for_transformers(make_maskgit, tmp_path):
    config = replace(FAST, optimizer="muon")
    with pytest.raises(ValueError, match="optimizer must be adamw for the first stage"):
        fit("vqgan", make_maskgit(), tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_dead_codes_restart_once_a_step_by_all_of_its_images(make_maskgit, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(VectorQuantizer, "restart_dead_codes", lambda self, latents, tokens, *args,
                        **options: counted.append((len(latents), len(tokens))))
    fit("vqgan", make_maskgit(), tmp_path, replace(FAST, steps=4, batch_size=2, accumulate=3))
    assert counted == [(6, 6)] * 2  # of four steps the first 70 %, less one: step < 2.8


def test_a_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)  # which a shell ignores for what it starts in the background
    with pytest.raises(KeyboardInterrupt), terminated() as received:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGINT, signal.SIGTERM]
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_a_run_where_it_can_go_on(make_maskgit, tmp_path):
    model = make_maskgit()
    calls = itertools.count()
    model.transformer.register_forward_pre_hook(lambda *args: signal.raise_signal(signal.SIGINT) if next(calls) == 4
                                                else None)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 5, saved in .*: run again to go on"):
        fit("maskgit", model, tmp_path / "cut", FAST)
    assert find_checkpoints(tmp_path / "cut")[-1].name == "checkpoint-00000005"
    cut, whole = (fit("maskgit", make_maskgit(), tmp_path / name, FAST) for name in ("cut", "whole"))
    assert [(row["step"], row["loss"]) for row in cut if "loss" in row] == [(row["step"], row["loss"])
                                                                            for row in whole if "loss" in row]


def test_tokens_of_many_codes_are_kept_whole(make_maskgit, tmp_path):
    vqgan = VQGAN(replace(make_maskgit().vqgan.config, codebook_size=40_000))
    tokens = vqgan.encode(Images(64).images)
    assert tokens.max() >= 2**15  # more than an int16 holds
    assert torch.equal(tokenize(vqgan, Images(64), progress=False).long(), tokens)
    kept = cached_tokens(vqgan, Images(64), tmp_path, make_accelerator(TrainConfig(), "cpu"), progress=False)
    assert torch.equal(kept.long(), tokens)


def test_a_fingerprint_tells_the_scale_of_pictures(make_maskgit):
    vqgan = make_maskgit().vqgan
    other = VQGAN(replace(vqgan.config, mean=(0.4, 0.5, 0.5)))
    other.load_state_dict(vqgan.state_dict())
    assert fingerprint(vqgan) == fingerprint(vqgan.state_dict()) != fingerprint(other)


def test_half_precision_ends_with_the_run_that_is_cut_off(make_maskgit, tmp_path):
    model, images = make_maskgit(), Images(kill_at=20)
    with pytest.raises(Killed):
        fit_maskgit(model, images, tmp_path, replace(FAST, precision="bf16"), device="cpu", cache=False)
    tokens = torch.zeros(1, 16, dtype=torch.long)
    fresh = type(model.transformer)(model.transformer.config, model.transformer.codes)
    fresh.load_state_dict(model.transformer.state_dict())
    assert torch.equal(model.transformer.eval()(tokens), fresh.eval()(tokens))


def test_fresh_cats_are_as_before_after_a_run(make_maskgit, tmp_path):
    source = FreshCats(Images().images, size=16)
    kept = source.pictures
    first, second = (fit_vqgan(make_maskgit().vqgan, source, tmp_path / name, FAST, device="cpu") for name in "ab")
    assert [row.get("loss") for row in first] == [row.get("loss") for row in second] and source.pictures is kept


@pytest.mark.parametrize("stage", ["vqgan", "maskgit"])
def test_a_run_that_is_done_and_other_data_are_told(make_maskgit, tmp_path, capsys, stage):
    fit(stage, make_maskgit(), tmp_path, FAST)
    capsys.readouterr()
    fit(stage, make_maskgit(), tmp_path, FAST)
    assert "nothing is left to train" in capsys.readouterr().err
    model, other = make_maskgit(), -Images().images
    if stage == "vqgan": fit_vqgan(model.vqgan, other, tmp_path, replace(FAST, steps=9), device="cpu")
    else: fit_maskgit(model, other, tmp_path, replace(FAST, steps=9), device="cpu")
    assert "other data" in capsys.readouterr().err
