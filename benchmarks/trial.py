"""Where the time of a whole trial goes: cold, warm on the same task, after a change of task.

    python benchmarks/trial.py                      # the quickstart's tasks and backbone
    python benchmarks/trial.py data/vtab-1k --tasks cifar,eurosat \\
        --backbone deit_tiny_patch16_224 --weights deit_tiny.safetensors --epochs 3
    python benchmarks/trial.py IMAGES --backbone vit_base_patch16_224 --random-weights \\
        --device cuda --precision bf16 --epochs 100 --cold-epochs 2 \\
        --method vpt_deep_adamw --values num_tokens=50

Trials run one after the other in this process as they do in a warm worker, on images that are
decoded already; a linear probe has at last a `found` trial of each task, as in another process of
the node, with nothing in memory and the features on the disk. `import` is what a new process pays
before anything else. What comes before the first step is split into `backbone` (its weights),
`data` (the images), `frozen` (what the frozen part makes of them, kept for the next trial) and
`prompts` (the rest: prompts, head, what a method looks at). `first` is what the first epoch takes
longer than the others, where a step is recorded or compiled; it is part of `step`. `log` is the
file of the tuned weights and `wall` all of it, with what the loop spends between epochs. `steps` is
the share of the training steps in it: the rest is what a trial costs besides.
What a trial waits for between two of a worker, and what the driver logs of it, is measured by
`control.py`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from made_up import write_weights
from step import machine

from orchestrator.data.cache import ImageCache
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.prepare import plan_sweep
from orchestrator.plan.request import SweepRequest
from orchestrator.plan.space import SearchSpace
from orchestrator.support.yaml_io import parse_yaml
from orchestrator.training.context import TrialContext
from orchestrator.training.feature_cache import FeatureCache
from orchestrator.training.numerics import LAUNCHES
from orchestrator.training.trial import Trial
from orchestrator.training.worker_cache import WorkerCache

IMPORT_SECONDS = time.time() - psutil.Process().create_time()


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds of one trial."""

    state: str
    """cold, warm (same task as before), change (another task) or found (as the first of a task in
    another process of the node)."""
    task: str
    method: str
    backbone: float
    data: float
    frozen: float
    prompts: float
    step: float
    evaluate: float
    log: float
    wall: float
    steps: float
    """The share of `step` in `wall`."""
    first: float
    """Of `step` what the first epoch takes longer than the others: recording, compilation."""
    epochs: int
    images_per_second: float
    val_accuracy: float
    frozen_work: str


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.random_weights:
            options.weights = write_weights(options.backbone, Path(folder) / "chance.safetensors")
        return _rows(options, Path(folder))


def _rows(options: argparse.Namespace, folder: Path) -> list[Row]:
    request = SweepRequest(
        suite=options.suite,
        tasks=options.tasks,
        methods=options.method,
        epochs=options.epochs,
        backbone=options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        normalization=options.normalization,
        precision=options.precision,
        launch=options.launch,
        eval_every=options.eval_every,
        frozen_cache=options.frozen_cache,
        pruner="none",
    )
    plan, planned_context = planned(request, device=options.device, cpu_threads=options.threads)
    worker_cache = WorkerCache(8 * 2**30)
    print(f"\n{machine()}\nimport {IMPORT_SECONDS:.2f} s\n")
    print(
        "| state | task | method | epochs | backbone | data | frozen | prompts | first | step "
        "| evaluate | log | wall | steps | images/s | val |"
    )
    print("|---" * 16 + "|")
    rows: list[Row] = []

    def run(state: str, task: str, space: SearchSpace, worker_cache: WorkerCache) -> None:
        drawn = {d.name: _middle(d.distribution) for d in space.dimensions if not d.when}
        values = {**space.fixed, **drawn, **dict(options.values)}
        if state == "cold" and options.cold_epochs:
            share = options.cold_epochs / values["epochs"]
            warmup = values["warmup_epochs"] * share
            values |= {"epochs": options.cold_epochs, "warmup_epochs": warmup}
        config = plan.trial_config(f"{task}.{space.name}", len(rows), values, seed=len(rows))
        rows.append(_run(state, _TimedTrial(config, context, worker_cache)))
        print(_text(rows[-1]), flush=True)

    tasks = [planned.name for planned in plan.tasks]
    context = _Context(**vars(planned_context), features_folder=folder)
    for space in plan.parsed_spaces.values():
        for task in tasks:
            run("change" if rows else "cold", task, space, worker_cache)
            run("warm", task, space, worker_cache)
        if rows[-1].frozen_work.startswith("train: features"):
            for task in tasks:
                run("found", task, space, WorkerCache(8 * 2**30))
    if options.json:
        document = {"machine": machine(), "import_seconds": IMPORT_SECONDS, **vars(options)}
        document["engine"] = asdict(plan.engine)
        document["rows"] = [asdict(row) for row in rows]
        options.json.write_text(json.dumps(document, indent=2, default=str))
    return rows


def planned(
    request: SweepRequest, *, device: str, cpu_threads: int
) -> tuple[SweepPlan, TrialContext]:
    """What a sweep would hand to its workers."""
    cache = ImageCache()
    plan, suite = plan_sweep(
        request, name="benchmark", cache=cache, say=print, device=device, cpu_threads=cpu_threads
    )
    return plan, TrialContext.of(
        plan.backbone,
        suite.tasks,
        fingerprints=plan.fingerprints,
        metrics=plan.metrics,
        cache=cache,
        pruner=plan.pruner,
        device=device,
        cpu_threads=cpu_threads,
        engine=plan.engine,
    )


@dataclass(frozen=True, kw_only=True)
class _Context(TrialContext):
    """With features of its own, or those of an earlier run would be found."""

    features_folder: Path

    @property
    def features(self) -> FeatureCache:
        return FeatureCache(self.features_folder)


class _TimedTrial(Trial):
    """Notes what the parts of its beginning take."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seconds = {"_backbone": 0.0, "_pixels": 0.0, "_prefix": 0.0}

    def _timed(self, name: str, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return getattr(super(), name)(*arguments)
        finally:
            self.seconds[name] += time.perf_counter() - began

    def _backbone(self, *arguments: Any) -> Any:
        return self._timed("_backbone", *arguments)

    def _pixels(self, *arguments: Any) -> Any:
        return self._timed("_pixels", *arguments)

    def _prefix(self, *arguments: Any) -> Any:
        return self._timed("_prefix", *arguments)


def _run(state: str, trial: _TimedTrial) -> Row:
    epochs = list(trial.epochs())
    accuracy = [row["val_accuracy"] for row in epochs if "val_accuracy" in row][-1]
    first, *others = [row["train_seconds"] for row in epochs]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trial.save(Path(folder) / "0.safetensors")
        saved = time.perf_counter() - began
    facts = trial.facts()
    return Row(
        state=state,
        task=trial.config.task,
        method=trial.config.study.partition(".")[2],
        backbone=trial.seconds["_backbone"],
        data=trial.seconds["_pixels"],
        frozen=trial.seconds["_prefix"],
        prompts=facts.setup_seconds - sum(trial.seconds.values()),
        step=facts.train_seconds,
        evaluate=facts.eval_seconds,
        log=saved,
        wall=facts.wall_seconds,
        steps=facts.train_seconds / facts.wall_seconds,
        first=max(0.0, first - statistics.median(others)) if others else 0.0,
        epochs=len(epochs),
        images_per_second=facts.images_per_second,
        val_accuracy=accuracy,
        frozen_work=facts.frozen_work,
    )


def _middle(distribution: Any) -> Any:
    """A value of a hyper-parameter without a sampler."""
    choices = getattr(distribution, "choices", None)
    return choices[len(choices) // 2] if choices else distribution.low


def _value(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, parse_yaml(value, source=text)


def _text(row: Row) -> str:
    return (
        f"| {row.state} | {row.task} | {row.method} | {row.epochs} | {row.backbone:.3f}"
        f" | {row.data:.3f} | {row.frozen:.3f} | {row.prompts:.3f} | {row.first:.2f}"
        f" | {row.step:.2f} | {row.evaluate:.2f} | {row.log:.3f} | {row.wall:.2f}"
        f" | {row.steps:.0%}"
        f" | {row.images_per_second:.0f} | {row.val_accuracy:.3f} |"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", nargs="?", default="quickstart")
    parser.add_argument("--tasks", type=lambda text: text.split(","))
    parser.add_argument("--method", nargs="+", default=["linear", "vpt_deep"])
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--random-weights", action="store_true", help="for the time alone")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--normalization", help="for weights that do not say theirs")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--cold-epochs", type=int, help="of the first trial (default: as others)")
    parser.add_argument(
        "--values",
        nargs="+",
        type=_value,
        default=[],
        help="NAME=VALUE of hyper-parameters, instead of one from the middle of the space",
    )
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--launch", choices=("auto", *LAUNCHES), default="auto", help="of a GPU")
    parser.add_argument("--eval-every", type=int, default=1)
    parser.add_argument("--no-frozen-cache", dest="frozen_cache", action="store_false")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
