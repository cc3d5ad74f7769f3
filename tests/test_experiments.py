"""Comparisons that can be trusted: runs are independent and repeatable, killed sweeps continue, and no row passes for
another."""
import itertools
import json
import math
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ttest_ind
from torch import Tensor

from maskgit_nb import experiments, masking, stages, sweeps
from maskgit_nb.cats import drawn_cats
from maskgit_nb.data import fingerprint, open_pairs, open_train
from maskgit_nb.experiments import (
    EXPERIMENTS,
    METRICS,
    TRAIN_DEFAULTS,
    Measured,
    _best_steps,
    _level_with_best,
    _plot_settings,
    best_options,
    compare,
    differ,
    figure,
    measured,
    p_value,
    run_experiment,
    summarize,
    verdict,
)
from maskgit_nb.fid import frechet_distance, get_network, image_features
from maskgit_nb.files import append_row, read_rows
from maskgit_nb.images import random_holes, to_picture
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.scores import hole_psnr, markdown_table
from maskgit_nb.stages import half, validation_losses
from maskgit_nb.sweeps import Sweep, collect, inpaint_defaults, name_settings, newest, split_options, sweep

SAME = dict(weights="w", data_hash="d", network="n", device="cpu", fixed={})
CLOCK = ("seconds", "date")


def seeded(seed: int = 0) -> torch.Generator: return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]: return drawn_cats(6, seed=1, size=16), random_holes(6, 16, seeded())


def small(maskgit: MaskGIT, pairs: tuple[Tensor, Tensor], out: Path, settings=None, **options) -> list[dict]:
    arguments = dict(runs=2, network="random", data="drawn:6", base=dict(steps=2), progress=False) | options
    return sweep(maskgit, *pairs,
                 {"halton": {"order": "halton"}, "random": {"order": "random"}} if settings is None else settings,
                 out=out, **arguments)


def figures(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def row(setting: str, run: int, fd: float, **columns) -> dict:
    return dict(setting=setting, options=dict(order=setting), run=run, seed=run, images=6, data="d", fd=fd, kid=fd,
                hole_psnr=-fd, seconds=1.0) | SAME | columns


# --- numbers

@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_measured_is_mean_and_deviation_of_n_minus_1(values):
    found = measured(values)
    x = torch.tensor(values, dtype=torch.float64)
    assert found.mean == pytest.approx(x.mean().item(),
                                       abs=1e-9) and found.deviation == pytest.approx(x.std(correction=1).item(),
                                                                                      abs=1e-6)
    assert found.error == pytest.approx(found.deviation / math.sqrt(len(values))) and found.runs == len(values)


def test_single_runs_have_no_deviation_and_never_differ():
    assert math.isnan(measured([3.0]).deviation)
    assert not differ(measured([3.0]), measured([900.0, 901.0]))


@given(st.integers(2, 9), st.integers(2, 9), st.floats(0.1, 3), st.floats(0.1, 3), st.floats(0, 5))
def test_p_falls_with_distance_and_is_symmetric(n, m, spread, other, gap):
    a, b, further = Measured(0.0, spread, n), Measured(gap, other, m), Measured(gap + 1, other, m)
    assert p_value(a, b) == pytest.approx(p_value(b, a)) and p_value(a, further) < p_value(a, b) <= 1
    assert differ(a, b) == (p_value(a, b) < 0.01)


@given(st.lists(st.integers(0, 99), min_size=2, max_size=9, unique=True),
       st.lists(st.integers(0, 9), min_size=2, max_size=4, unique=True))
def test_p_is_that_of_welchs_test_on_the_runs_themselves(a, b):
    assert p_value(measured(a), measured(b)) == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue, rel=1e-9)


# --- settings

@given(st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True),
       st.lists(st.sampled_from(["halton", "random", "confidence"]), min_size=1, unique=True))
def test_product_of_values_holds_every_combination_once(steps, orders):
    named = name_settings(dict(steps=steps, order=orders))
    assert sorted((o["steps"], o["order"]) for o in named.values()) == sorted(itertools.product(steps, orders))
    fixed, varied = split_options(named, inpaint_defaults())
    for name, options in varied.items(): assert inpaint_defaults() | named[name] == fixed | options


def test_every_option_of_inpaint_is_written_down():
    assert {"steps", "schedule", "temperature", "order", "confidence", "dilate", "evidence", "composite",
            "sampling_temperature"} <= inpaint_defaults().keys()
    assert inpaint_defaults().keys().isdisjoint({"frames", "generator", "logit_bias", "favour"})


@pytest.mark.parametrize("wrong, word",
                         [({"a": {"step": 4}}, "got step"), ({"a": {"schedule": "cosin"}}, "cosin"),
                          ({}, "at least one"), ({"a": {"schedule": math.cos}}, "plain values")])
def test_bad_settings_are_refused_before_any_run(maskgit, pairs, tmp_path, wrong, word):
    good_first = wrong and {"good": {}} | wrong
    with pytest.raises(ValueError, match=word): small(maskgit, pairs, tmp_path / "rows.jsonl", good_first)
    assert not (tmp_path / "rows.jsonl").exists()


# --- the table on disk

def test_a_table_cut_anywhere_keeps_its_whole_rows_and_can_go_on(tmp_path):
    path, rows = tmp_path / "rows.jsonl", [dict(setting="Ä", run=0), dict(setting="b", run=1)]
    for each in rows: append_row(path, each)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = read_rows(path)
        assert kept == rows[:(cut >= first - 1) + (cut >= len(whole) - 1)]
        append_row(path, dict(setting="next"))
        assert read_rows(path) == [*kept, dict(setting="next")]


def test_appended_rows_leave_earlier_bytes_alone(tmp_path):
    append_row(tmp_path / "rows.jsonl", row("a", 0, 1.0))
    before = (tmp_path / "rows.jsonl").read_bytes()
    append_row(tmp_path / "rows.jsonl", row("a", 1, 2.0))
    assert (tmp_path / "rows.jsonl").read_bytes().startswith(before)


def test_collect_goes_run_by_run_and_makes_only_what_is_missing(tmp_path):
    calls = []
    def measure(options: dict, seed: int) -> dict:
        calls.append((options["order"], seed))
        return dict(fd=float(seed), hole_psnr=0.0)
    three = {name: dict(order=name) for name in "abc"}
    run = lambda settings, runs, same=SAME: collect(measure, settings, runs, tmp_path / "rows.jsonl", same,
                                                    progress=False)
    assert len(run(three, 2)) == 6 and calls == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("c", 1)]
    assert len(run(three, 3)) == 9 and calls[6:] == [("a", 2), ("b", 2), ("c", 2)]
    assert len(run({"a": three["a"]}, 2)) == 2 and len(calls) == 9  # rows not asked for stay out of the answer
    run({"a": dict(order="b")}, 1)  # the same name for other options is another question
    assert len(calls) == 10
    for column in SAME:
        run(three, 1, SAME | {column: "other"})
        assert len(calls) == 13, column
        del calls[10:]


SCRIPT = """
import os, signal, sys, torch
from maskgit_nb import experiments, sweeps
torch.set_num_threads(int(sys.argv[3]))
measure, left = sweeps.Sweep.measure, iter(range(3))
def killed(*args, **options):
    if next(left, None) is None: os.kill(os.getpid(), signal.SIGKILL)
    return measure(*args, **options)
sweeps.Sweep.measure = killed
experiments.run_experiment("order", sys.argv[1], out=sys.argv[2], images=4, runs=2, steps=2, network="random",
                           progress=False)
"""


def test_a_sweep_killed_for_good_continues_with_the_same_figures(make_maskgit, tmp_path, monkeypatch):
    monkeypatch.delenv("MASKGIT_NB_DATA", raising=False)
    make_maskgit(3).save_pretrained(tmp_path / "weights")
    killed = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "weights"), str(tmp_path / "cut"),
                             str(torch.get_num_threads())], timeout=100)
    assert killed.returncode == -signal.SIGKILL and len(read_rows(tmp_path / "cut" / "order.jsonl")) == 3
    made = []
    measure = Sweep.measure
    monkeypatch.setattr(Sweep, "measure", lambda *args, **options: made.append(args) or measure(*args, **options))
    run = lambda out: run_experiment("order", tmp_path / "weights", out=tmp_path / out, images=4, runs=2, steps=2,
                                     network="random", progress=False)
    continued = run("cut")
    assert len(made) == 3 and len(continued) == 6
    assert figures(continued) == figures(run("whole"))


# --- what a row stands for

def test_a_run_is_inpaint_with_its_number_as_seed(maskgit, pairs, tmp_path):
    images, holes = pairs
    rows = small(maskgit, pairs, tmp_path / "rows.jsonl", {"as decoded": dict(composite=False)})
    for found in rows:
        made = maskgit.inpaint(images, holes, steps=2, composite=False, generator=seeded(found["seed"])).images
        network = get_network("random")
        assert found["fd"] == pytest.approx(frechet_distance(image_features(images, network),
                                                             image_features(made, network)), rel=1e-6)
        assert found["hole_psnr"] == pytest.approx(hole_psnr(made, images, holes), rel=1e-6)
    assert rows[0]["fd"] != rows[1]["fd"] and [found["run"] for found in rows] == [0, 1]
    assert rows[0]["images"] == 6
    assert rows[0]["data"] == "drawn:6"
    assert rows[0]["fixed"]["steps"] == 2
    assert rows[0]["seconds"] > 0
    assert {"date", "device", "weights", "network", "command", "kid"} <= rows[0].keys()


def test_more_than_one_batch_is_mended_and_judged_as_a_whole(maskgit):
    bench = Sweep(maskgit, drawn_cats(70, size=16), random_holes(70, 16, seeded()), "random")
    generator = seeded(4)
    made = torch.cat([maskgit.inpaint(x, h, steps=1, generator=generator).images
                      for x, h in zip(bench.images.split(64), bench.holes.split(64), strict=True)])
    assert bench.measure(dict(steps=1), 4)["hole_psnr"] == bench.judge(made)["hole_psnr"]


def test_real_features_are_taken_once_and_all_settings_get_the_same_holes(maskgit, pairs, tmp_path, monkeypatch):
    seen, holes = [], []
    network = get_network("random")
    def counting(levels: Tensor) -> Tensor:
        seen.append(len(levels))
        return network(levels)
    inpaint = MaskGIT.inpaint
    monkeypatch.setattr(MaskGIT, "inpaint", lambda self, x, h, *args,
                        **options: holes.append(h) or inpaint(self, x, h, *args, **options))
    bench = Sweep(maskgit, *pairs, counting)
    for out in ("a", "b"): small(maskgit, pairs, tmp_path / out, bench=bench)
    assert sum(seen) == 6 * (1 + 2 * 4)  # the real images once, and eight runs
    used = [h for h in holes if h.any()]
    assert len(used) == 8 and all(torch.equal(h, pairs[1]) for h in used)


@pytest.mark.parametrize("change", ["weights", "a pixel", "a hole", "network", "defaults"])
def test_rows_of_another_kind_are_not_taken_for_done_and_never_averaged(make_maskgit, pairs, tmp_path, monkeypatch,
                                                                        change):
    model, (images, holes), options = make_maskgit(), pairs, {}
    before = small(model, pairs, tmp_path / "rows.jsonl")
    if change == "weights":
        with torch.no_grad(): model.transformer.position_embedding[0, 0] += 1e-3
    elif change == "a pixel": images = images.index_put((torch.tensor(0),) * 4, torch.tensor(0.5))
    elif change == "a hole": holes = holes.index_put((torch.tensor(0),) * 4, ~holes[0, 0, 0, 0])
    elif change == "network": options = dict(network=get_network("random"))
    else:
        defaults = inpaint_defaults()
        monkeypatch.setattr(sweeps, "inpaint_defaults", lambda: defaults | dict(temperature=2.5))
    after = small(model, (images, holes), tmp_path / "rows.jsonl", **options)
    assert len(after) == 4 and not [found for found in after if found in before]
    everything = read_rows(tmp_path / "rows.jsonl")
    assert len(everything) == 8 and newest(everything) == after
    with pytest.raises(ValueError, match="differ in"): summarize(everything)


def test_a_fingerprint_sees_values_names_shapes_and_types():
    x = torch.arange(4.0)
    prints = [fingerprint(t)
              for t in ({"x": x}, {"y": x}, {"x": x.view(2, 2)}, {"x": x.half()}, {"x": x + 1e-6}, {"x": x, "y": x})]
    assert len(set(prints)) == 6 and fingerprint({"y": x, "x": x.clone()}) == prints[-1]


# --- tables, words and figures

def test_a_run_that_is_there_twice_counts_once():
    table = summarize([row("a", 0, 1.0), row("a", 1, 3.0), row("a", 1, 3.0), row("a", 1, 3.0)])
    assert table["a"]["fd"] == Measured(2.0, statistics.stdev([1.0, 3.0]), 2)


def test_a_name_for_two_sets_of_options_is_refused():
    with pytest.raises(ValueError, match="different options"):
        summarize([row("a", 0, 1.0), row("a", 1, 1.0, options={})])


def test_a_table_of_runs_has_means_deviations_and_remarks_in_the_right_line():
    table = summarize([row(name, run, run) for name in "ab" for run in range(3)])
    table["b"]["report"] = "a remark"
    lines = markdown_table(table, METRICS | dict(runs="runs", report="beside"), "setting").splitlines()
    heads = [head.strip() for head in lines[0].split("|")]
    assert heads[1:-1] == ["setting", "FD", "KID x 1000", "PSNR in the holes (dB)", "seconds", "runs", "beside"]
    assert len(lines) == 4
    assert "a remark" in lines[3]
    assert "a remark" not in lines[2]
    assert "1.00 ± 1.00" in lines[2]
    assert "| " + "3".rjust(4) in lines[2]


def test_words_follow_the_numbers():
    def rows(**means): return [row(name, run, mean + 0.1 * run) for name, mean in means.items() for run in range(3)]
    table = summarize(rows(halton=10, random=20, confidence=10.02))
    assert _level_with_best(table) == ["halton", "confidence"]
    assert "halton (10.10 ± 0.10) is better than random" in compare(table, "random", "halton")
    # there higher is better
    assert "halton (-10.10 ± 0.10) is better than random" in compare(table, "random", "halton", "hole_psnr")
    assert "cannot be told apart" in compare(table, "confidence", "halton")
    assert "single runs" in compare(summarize(rows(a=1, b=2)[::3]), "a", "b")
    assert verdict("order",
                   rows(halton=10, random=20,
                        confidence=30)).startswith("Lowest FD: halton, 10.10 ± 0.10. All others are worse.")
    assert verdict("order", rows(halton=30, random=20, confidence=10)).startswith("Lowest FD: confidence")


def test_fewest_steps_that_keep_up():
    def rows(*means):
        pairs = itertools.product(zip((1, 2, 4, 8), means, strict=True), range(3))
        return [row(str(steps), run, mean + 0.1 * run, options=dict(steps=steps), seconds=float(steps))
                for (steps, mean), run in pairs]

    assert "cannot tell from it: 4; 8 take 2.0 times as long" in verdict("stopping", rows(20, 15, 10.05, 10))
    assert "Fewer than 8 are worse" in verdict("stopping", rows(20, 15, 12, 10))


def test_a_default_gives_way_only_to_a_setting_that_differs(tmp_path):
    def record(name: str, **means):
        for value, run in itertools.product(means, range(3)):
            append_row(tmp_path / name, row(value, run, means[value] + 0.1 * run))
    record("order.jsonl", confidence=10.05, halton=10)
    assert best_options(tmp_path) == {"order": "confidence"}
    record("clear.jsonl", confidence=12, halton=10)
    assert best_options(tmp_path, ["order", "clear"]) == {"order": "halton"}
    assert best_options(tmp_path / "nothing") == {}


def test_best_steps_ignores_other_weights(tmp_path):
    for steps, fd in ((2, 9.0), (4, 5.0), (6, 7.0)):
        append_row(tmp_path / "steps.jsonl", row(str(steps), 0, fd, options=dict(steps=steps)))
    assert _best_steps(tmp_path / "steps.jsonl", "w") == 4
    assert _best_steps(tmp_path / "steps.jsonl", "others", default=8) == 8
    assert _best_steps(tmp_path / "nothing.jsonl", "w") == 8


def test_a_figure_has_settings_by_name_or_along_an_axis_and_the_floors_of_its_pictures(maskgit, tmp_path, monkeypatch):
    monkeypatch.delenv("MASKGIT_NB_DATA", raising=False)
    monkeypatch.setattr(MaskGIT, "from_pretrained", lambda weights: maskgit)
    for name in ("order", "baselines"):
        run_experiment(name, "tiny", out=tmp_path, images=3, runs=2, steps=2, network="random", progress=False)
    axes = figure("order", tmp_path).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["confidence", "halton", "random"]
    assert [line.get_label() for line in axes.lines][-2:] == ["best classical method", "VQGAN's floor"]
    table = summarize([row(str(steps), run, steps + run, options=dict(steps=steps)) for steps in (1, 3)
                       for run in range(3)])
    along = plt.subplots()[1]
    _plot_settings(along, table, "fd", "steps", {"smooth filling": 2.0})
    # the curve, two rows of caps, a baseline
    assert (along.get_xlabel(), along.get_ylabel(), len(along.lines)) == ("steps", "FD", 4)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_study_runs_and_draws(maskgit, tmp_path, monkeypatch, name):
    monkeypatch.delenv("MASKGIT_NB_DATA", raising=False)
    monkeypatch.setattr(MaskGIT, "from_pretrained", lambda weights: maskgit)
    study, options = EXPERIMENTS[name], {}
    if study.trained:
        monkeypatch.setitem(experiments.TRAIN_DEFAULTS, "train_images", 8)
        options = dict(steps=1, batch_size=2)
    assert figure(name, tmp_path) is None
    rows = run_experiment(name, "tiny", out=tmp_path, images=3, runs=2, network="random", progress=False, **options)
    assert {found["setting"] for found in rows} == study.settings.keys() and {found["data"]
                                                                              for found in rows} == {"drawn:3"}
    assert all(found["command"].startswith(f"run_experiment('{name}'") for found in rows)
    drawn = figure(name, tmp_path)
    assert len(drawn.axes) == len(study.metrics) + study.trained
    if not study.trained:
        bars = drawn.axes[0].containers[-1]
        spread = [entry["fd"].deviation for entry in summarize(rows).values()]
        lines = bars[2][0].get_segments()
        axis = 1 if study.axis else 0
        assert [(line[1, axis] - line[0, axis]) / 2 for line in lines] == pytest.approx(spread, rel=1e-4, abs=1e-9)
    assert verdict(name, rows).count("\n") == len(study.pairs) * (3 if study.trained else 1)


@pytest.mark.parametrize("arguments, word",
                         [(dict(name="stepz"), "report_steps"), (dict(name="steps", steps=3), "varies them itself"),
                          (dict(name="order", lr=1.0), "does not train"), (dict(name="order", runs=0), "runs must be"),
                          (dict(name="order", images=1), "at least 2")])
def test_what_cannot_be_run_is_refused_by_name(maskgit, tmp_path, monkeypatch, arguments, word):
    monkeypatch.delenv("MASKGIT_NB_DATA", raising=False)
    monkeypatch.setattr(MaskGIT, "from_pretrained", lambda weights: maskgit)
    with pytest.raises(ValueError, match=word):
        run_experiment(out=tmp_path, network="random", progress=False, **dict(images=3) | arguments)


# --- the data

@pytest.fixture
def lab(tmp_path: Path) -> Path:
    "The lab's layout with three training and four validation pictures, and masks whose first i pixels are missing."
    for split, n in (("train", 3), ("val", 4)):
        (tmp_path / "lab" / split).mkdir(parents=True)
        for i, x in enumerate(drawn_cats(n, seed=n, size=16)): to_picture(x).save(tmp_path / "lab" / split / f"{i}.png")
    (tmp_path / "lab" / "mask64").mkdir()
    for i in range(5):
        known = torch.full((16, 16), 255, dtype=torch.uint8)
        known.view(-1)[:i + 1] = 0
        Image.fromarray(known.numpy()).save(tmp_path / "lab" / "mask64" / f"mask_{i}.png")
    return tmp_path / "lab"


def test_image_i_goes_with_mask_i(lab, monkeypatch):
    for root in (lab, None):
        monkeypatch.setenv("MASKGIT_NB_DATA", str(lab))
        images, holes, data = open_pairs(3, 16, root)
        assert torch.equal(images, drawn_cats(4, seed=4, size=16)[:3])
        assert holes.flatten(1).sum(1).tolist() == [1, 2, 3]
        assert data == "val:3" and open_pairs(3, 32, root)[1].shape == (3, 1, 32, 32)
        assert torch.equal(open_train(9, 16, root), drawn_cats(3, seed=3, size=16))
    with pytest.raises(ValueError, match="at most 4"): open_pairs(5, 16, lab)


def test_rows_say_what_they_were_measured_on_and_name_no_folder(maskgit, lab, tmp_path, monkeypatch):
    monkeypatch.setattr(MaskGIT, "from_pretrained", lambda weights: maskgit)
    rows = run_experiment("dilate", "tiny", lab, tmp_path, images=4, runs=1, network="random", progress=False)
    assert {found["data"] for found in rows} == {"val:4"} and str(tmp_path) not in json.dumps(rows)


RECORDED = sorted((Path(__file__).parents[1] / "nbs" / "results" / "experiments").glob("*.jsonl"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_results_can_be_told_in_words(path):
    rows = newest(read_rows(path))
    assert all(" /" not in found["command"] for found in rows)  # no folder of somebody's machine
    if path.stem != "baselines": assert verdict(path.stem, rows) and figure(path.stem, path.parent).axes


# --- training

def briefly(maskgit: MaskGIT, seed: int = 0, **options) -> MaskGIT:
    tokens = maskgit.vqgan.encode(drawn_cats(8, seed=2, size=16))
    options = TRAIN_DEFAULTS | dict(train_steps=3, batch_size=4) | options
    return experiments._trained(maskgit.vqgan, tokens, options, seed)


def test_training_changes_one_thing_at_a_time(maskgit, monkeypatch):
    seen = []
    loss = masking.mvtm_loss
    def spy(logits: Tensor, tokens: Tensor, counted: Tensor, *rest) -> Tensor:
        seen.append((logits.detach(), tokens, counted))
        return loss(logits, tokens, counted, *rest)
    monkeypatch.setattr(stages, "mvtm_loss", spy)
    def first(**options):
        seen.clear()
        briefly(maskgit, **options)
        return seen[0], [tokens for _, tokens, _ in seen]
    (logits, _, masked), batches = first()
    (logits_all, _, everywhere), batches_all = first(loss="all")
    assert torch.equal(logits, logits_all)  # same weights, same batch, same mask at the input
    assert everywhere.all() and not masked.all() and all(map(torch.equal, batches, batches_all))
    (_, _, halves), batches_half = first(ratio="half")
    assert all(map(torch.equal, batches, batches_half))
    assert halves[2:].sum(1).tolist() == [8, 8]  # half of 16 tokens, in the half of the batch that is masked anywhere
    assert first(seed=1)[0][0].shape == logits.shape and not torch.equal(first(seed=1)[0][0], logits)


def test_training_repeats_itself_and_leaves_the_global_generator_alone(maskgit):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, other = (briefly(maskgit, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert fingerprint(a.state_dict()) == fingerprint(b.state_dict()) != fingerprint(other.state_dict())
    assert fingerprint(a.vqgan.state_dict()) == fingerprint(maskgit.vqgan.state_dict())
    with pytest.raises(ValueError, match="masked or all"): briefly(maskgit, loss="known")
    with pytest.raises(ValueError, match="gamma or half"): briefly(maskgit, ratio="third")


def test_training_learns(maskgit):
    tokens = maskgit.vqgan.encode(drawn_cats(8, seed=2, size=16))
    shares = 0.1, 0.5, 1.0
    short, long = (validation_losses(briefly(maskgit, train_steps=steps, lr=3e-3), tokens, shares=shares)
                   for steps in (1, 60))
    assert long["val_random"] < short["val_random"] - 0.2
    assert list(long["val_by_share"]) == ["0.1", "0.5", "1.0"]


def test_the_yardstick_is_the_same_for_all(maskgit):
    tokens = maskgit.vqgan.encode(drawn_cats(8, seed=2, size=16))
    assert validation_losses(maskgit, tokens, shares=(0.5,)) == validation_losses(maskgit, tokens, shares=(0.5,))
    assert half(0.0) == half(1.0) == 0.5


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(1, 4))
def test_rows_asked_for_are_those_returned(runs, kinds):
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        names = {f"s{i}": dict(order=i) for i in range(kinds)}
        measure = lambda options, seed: dict(fd=float(seed + options["order"]), hole_psnr=0.0)
        collect(measure, names, 1, Path(folder) / "rows.jsonl", SAME, progress=False)
        rows = collect(measure, names, runs, Path(folder) / "rows.jsonl", SAME, progress=False)
        assert sorted((found["setting"], found["run"])
                      for found in rows) == sorted(itertools.product(names, range(runs)))
        assert all(found["fd"] == found["seed"] + found["options"]["order"] for found in rows)
