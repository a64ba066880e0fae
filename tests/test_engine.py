"""One way to compute for all trials of a sweep: chosen by measurement, said, and kept."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from plans import make_plan
from suites import write_suite
from tiny_backbones import tiny_vit
from trials import trial_config

from methods import load_backbone, tune
from methods.vpt import VPT
from orchestrator.data.cache import ImageCache
from orchestrator.plan import precision as precision_module
from orchestrator.plan.plan import load_plan, save_plan
from orchestrator.plan.precision import choose_precision
from orchestrator.plan.prepare import plan_sweep
from orchestrator.plan.pruners.successive_halving import SuccessiveHalving
from orchestrator.plan.request import SweepRequest
from orchestrator.record.columns import as_columns, as_rows
from orchestrator.training import trial as trial_module
from orchestrator.training.context import TrialContext
from orchestrator.training.numerics import Engine
from orchestrator.training.trial import Trial
from orchestrator.training.worker_cache import WorkerCache


def chosen(precision, device="cpu", launch="auto"):
    said = []
    engine = choose_precision(
        tiny_vit(),
        Engine(),
        precision=precision,
        launch=launch,
        device=device,
        cpu_threads=1,
        images=10**9,
        say=said.append,
    )
    return engine, said


def test_what_was_asked_for_is_taken_without_a_measurement():
    assert chosen("fp32") == (Engine(), [])


def test_a_small_network_stays_in_float32():
    engine, said = chosen("auto")
    assert engine == Engine() and "too little to save" in said[0]


def test_of_the_ways_to_compute_the_one_that_is_worth_it_is_taken(monkeypatch):
    monkeypatch.setattr(precision_module, "SMALL_STEP_GFLOP", 0)
    threads = torch.get_num_threads()
    engine, (line,) = chosen("auto")
    gains = [float(gain) for gain in re.findall(r"([\d.]+)x", line)]
    assert len(gains) == 3 and gains[0] == 1.0
    assert (engine == Engine()) == (max(gains) < precision_module.WORTH)
    assert torch.get_num_threads() == threads


def test_bf16_may_be_asked_for():
    engine, said = chosen("bf16")
    assert engine.precision == "bf16" and len(said) == 1


FP32, GRAPH, COMPILED = (
    Engine(precision=precision, launch=launch)
    for precision, launch in (("fp32", "graph"), ("bf16", "graph"), ("bf16", "compiled"))
)


@pytest.mark.parametrize(
    ("compiled_ms", "steps", "expected"),
    [
        (12.0, 10**5, COMPILED),  # 1.4 times as fast, and 500 s are saved
        (12.0, 1000, GRAPH),  # it would save 5 s for 20 s of compiling
        (16.0, 10**5, GRAPH),  # too little to gain for kernels that round otherwise
    ],
)
def test_what_is_compiled_must_save_more_than_it_takes(compiled_ms, steps, expected):
    seconds = {FP32: 0.050, GRAPH: 0.017, COMPILED: compiled_ms / 1e3}
    preparations = {FP32: 1.0, GRAPH: 1.0, COMPILED: 20.0}
    chosen_way, gains, remark = precision_module.pick([seconds] * 3, preparations, steps)
    assert chosen_way == expected
    assert gains[FP32] == 1 and gains[GRAPH] == pytest.approx(50 / 17)
    assert ("compiling takes 20 s" in remark) == (steps == 1000)


def test_what_is_compiled_anyway_is_not_held_against_the_faster_precision():
    slow, fast = (Engine(precision=kind, launch="compiled") for kind in ("fp32", "bf16"))
    rounds = [{slow: 0.060, fast: 0.013}] * 3
    assert precision_module.pick(rounds, {slow: 15.0, fast: 15.0}, steps=10)[0] == fast


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_without_a_gpu_to_measure_on_float32_is_kept_and_that_is_said():
    engine, said = chosen("auto", device="cuda")
    assert engine == Engine(launch="graph") and "no GPU here" in said[0]
    assert chosen("bf16", "cuda", "compiled") == (Engine(precision="bf16", launch="compiled"), [])


def test_the_engine_is_part_of_the_plan(tmp_path):
    plan = replace(make_plan(), engine=Engine(precision="bf16", eval_every=5, augment=True))
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path).engine == plan.engine


@pytest.mark.parametrize("bad", [{"precision": "fp16"}, {"attention": "flash"}, {"eval_every": 0}])
def test_an_unknown_engine_is_refused(bad):
    with pytest.raises(ValueError, match=r"fp16|flash|--eval-every"):
        Engine(**bad)


def test_epochs_without_a_validation_survive_the_record():
    rows = [
        {"epoch": 1, "scaled_lr": 0.1, "train_loss": 2.0},
        {"epoch": 2, "scaled_lr": 0.1, "train_loss": 1.0, "val_accuracy": 0.123456789},
    ]
    assert as_rows(as_columns(rows)) == rows


def test_a_step_size_that_an_older_version_wrote_has_todays_name():
    """Also of a trial that both versions trained."""
    columns = {"epoch": [1, 2], "lr": [0.1, None], "scaled_lr": [None, 0.2]}
    assert as_rows(columns) == [{"epoch": 1, "scaled_lr": 0.1}, {"epoch": 2, "scaled_lr": 0.2}]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    suite = write_suite(folder / "suite", ("colours_a",))
    cache = ImageCache(folder / "cache")
    request = SweepRequest(
        suite=str(suite), backbone="vit_quickstart", methods=["linear"], precision="fp32"
    )
    plan, opened = plan_sweep(request, name="test", cache=cache, say=lambda line: None)
    return TrialContext.of(
        plan.backbone,
        opened.tasks,
        fingerprints=plan.fingerprints,
        metrics=plan.metrics,
        cache=cache,
        engine=plan.engine,
    )


def test_what_is_for_gpus_changes_nothing_on_a_cpu_and_that_is_said(tmp_path):
    suite = write_suite(tmp_path / "suite", ("colours_a",))
    request = SweepRequest(
        suite=str(suite),
        backbone="vit_quickstart",
        methods=["linear"],
        precision="fp32",
        launch="graph",
        deterministic=True,
    )
    said = []
    plan, _ = plan_sweep(
        request, name="test", cache=ImageCache(tmp_path / "cache"), say=said.append
    )
    assert plan.engine == Engine()
    assert any("are for GPUs" in line for line in said)


def train(context, worker_cache, method="vpt", **config):
    settings = {"epochs": 6, "warmup_epochs": 1, "batch_size": 8, "lr": 0.5, **config}
    trial = Trial(trial_config("colours_a", method, **settings), context, worker_cache)
    return trial, list(trial.epochs())


def test_the_frozen_part_is_kept_or_not_to_the_same_result(context):
    off = replace(context, engine=Engine(frozen_cache=False))
    for method in ("vpt", "linear"):
        worker_cache = WorkerCache(2**30)
        kept, rows = train(context, worker_cache, method)
        again, rows_off = train(off, worker_cache, method)
        assert "computed once" in kept.facts().frozen_work
        assert "train: computed each time: --no-frozen-cache" in again.facts().frozen_work
        for a, b in zip(rows, rows_off, strict=True):
            assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-4)
    cramped, _ = train(context, WorkerCache(1000), "vpt")
    assert "MiB are too much" in cramped.facts().frozen_work


def test_a_probe_of_another_process_does_not_run_the_network_again(context, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the frozen network ran again")

    _, rows = train(context, WorkerCache(2**30), "linear", lr=0.3)
    monkeypatch.setattr(trial_module, "frozen_prefix", refuse)
    _, again = train(context, WorkerCache(2**30), "linear", lr=0.3)
    for row, same in zip(rows, again, strict=True):
        assert (row["train_loss"], row["val_loss"]) == (same["train_loss"], same["val_loss"])
    with pytest.raises(AssertionError, match="ran again"):
        # The last norm comes before the features, and so do the prompts.
        train(context, WorkerCache(2**30), "linear", final_norm="trainable")
    other = replace(context, engine=replace(context.engine, attention="unfused"))
    with pytest.raises(AssertionError, match="ran again"):
        train(other, WorkerCache(2**30), "linear", lr=0.3)


def test_augmented_images_are_not_cached_but_those_of_validation_are(context):
    trial, _ = train(replace(context, engine=Engine(augment=True)), WorkerCache(2**30))
    work = trial.facts().frozen_work
    assert "train: computed each time: images are augmented" in work
    assert "val: blocks 0 computed once" in work


def test_rungs_are_validated_whatever_the_interval(context):
    pruner = SuccessiveHalving(reduction_factor=2, first_rung_epochs=1)
    sparse = replace(context, engine=Engine(eval_every=5), pruner=pruner)
    _, rows = train(sparse, WorkerCache(2**30))
    assert [row["epoch"] for row in rows if "val_accuracy" in row] == [1, 2, 4, 5, 6]
    assert len(rows) == 6


def test_a_complete_trial_tells_how_often_each_class_is_right(context):
    trial, rows = train(context, WorkerCache(2**30), "linear", lr=0.05)
    facts = trial.facts()
    images, right = facts.val_images_by_class, facts.val_correct_by_class
    labels = context.search_splits("colours_a")["val"].labels
    assert images == np.bincount(labels).tolist()
    assert sum(right) / sum(images) == rows[-1]["val_accuracy"]
    pixels = trial.load_pixels("val")
    with torch.no_grad():
        found = trial.model.eval()(pixels.normalised(slice(None))).argmax(dim=1).numpy()
    assert right == [int((found[labels == label] == label).sum()) for label in range(len(images))]


def test_before_the_last_epoch_nothing_is_told_by_class_and_a_checkpoint_keeps_it(
    context, tmp_path
):
    config = {"epochs": 2, "warmup_epochs": 1, "batch_size": 8, "lr": 0.5}
    described = trial_config("colours_a", "linear", **config)
    often = replace(context, checkpoint_seconds=0)
    first = Trial(described, often, WorkerCache(2**30), checkpoint=tmp_path / "0.checkpoint")
    epochs = first.epochs()
    next(epochs)
    assert first.facts().val_correct_by_class is None
    list(epochs)
    # Its worker dies after the last epoch, before the record hears of it.
    second = Trial(described, often, WorkerCache(2**30), checkpoint=tmp_path / "0.checkpoint")
    assert len(list(second.epochs())) == 2
    assert second.facts().val_correct_by_class == first.facts().val_correct_by_class


def test_in_bf16_trained_weights_of_the_backbone_start_from_the_weights_themselves(context):
    half = replace(context, engine=Engine(precision="bf16"))
    trial, _ = train(half, WorkerCache(2**30), "full", epochs=2, warmup_epochs=0.5, lr=1e-30)
    original = load_backbone("vit_quickstart").vit.blocks[0].mlp.fc1.weight
    assert trial.model.vit.blocks[0].mlp.fc1.weight.equal(original)


def test_what_fits_is_remembered_for_trials_of_the_same_kind(context):
    worker_cache = WorkerCache(2**30)
    train(context, worker_cache, num_tokens=3)
    (fit,) = worker_cache.fits.values()
    fit.part_size = 4
    again, _ = train(context, worker_cache, num_tokens=3)
    other, _ = train(context, worker_cache, num_tokens=5)
    assert again.facts().part_size == 4
    assert other.facts().part_size is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_large_patch16_224", "vit_huge_patch14_224"])
def test_large_backbones_take_a_step(name):
    vit = load_backbone(name, pretrained=False).vit
    model = tune(vit, VPT(num_tokens=5), num_classes=3)
    model.checkpoint_blocks = True
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(model(images), torch.tensor([1])).backward()
    gradient = model.tuning.prompt.grad
    assert gradient.isfinite().all() and gradient[0].abs().sum() > 0
