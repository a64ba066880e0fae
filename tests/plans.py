"""Sweeps made by hand, for tests that need a plan and a record but no images and no training."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.plan.plan import BackbonePlan, StudyPlan, SweepPlan, TaskPlan
from orchestrator.plan.pruners import Pruner
from orchestrator.plan.pruners.options import plan_pruner
from orchestrator.record.record import Record, TrialRecord
from orchestrator.training.facts import EpochRow, TrialFacts

EPOCHS = 4

SPACES: dict[str, dict[str, Any]] = {
    "linear": {
        "method": "linear",
        "fixed": {"epochs": EPOCHS, "warmup_epochs": 1},
        "search": {
            "lr": {"low": 1e-3, "high": 10.0, "log": True},
            "weight_decay": {"choices": [0.0, 1e-4, 1e-2]},
        },
    },
    "vpt_deep": {
        "method": "vpt",
        "fixed": {"deep": True, "epochs": EPOCHS, "warmup_epochs": 1},
        "search": {
            "num_tokens": {"choices": [1, 5, 10, 50]},
            "optimizer": {"choices": ["sgd", "adamw"]},
            "lr": {"low": 1e-3, "high": 10.0, "log": True},
            "momentum": {"low": 0.8, "high": 0.99, "when": {"optimizer": "sgd"}},
        },
    },
}


def make_plan(
    *,
    name: str = "test-sweep",
    tasks: Sequence[str] = ("caltech101",),
    spaces: Sequence[str] = ("vpt_deep",),
    num_trials: int = 4,
    epochs: int = EPOCHS,
    pruner: str = "none",
    first_rung_epochs: int = 2,
    seed: int = 0,
    sampler: str = "random",
) -> SweepPlan:
    """A plan of every task with every space, as `sweep` would have written it."""
    documents = {
        space: {**SPACES[space], "fixed": {**SPACES[space]["fixed"], "epochs": epochs}}
        for space in spaces
    }
    return SweepPlan(
        name=name,
        created="2026-11-21T09:00:00+00:00",
        suite="vtab",
        data_root=None,
        tasks=tuple(
            TaskPlan(
                name=task,
                group="natural",
                num_classes=10,
                num_train=800,
                num_val=200,
                root=f"/data/vtab-1k/{task}",
                fingerprint=f"fingerprint-of-{task}",
            )
            for task in tasks
        ),
        backbone=BackbonePlan(
            name="vit_tiny_patch16_224",
            weights=None,
            weights_sha256="ab" * 32,
            image_size=112,
            num_parameters=5_500_000,
            resize="squash",
            interpolation="bicubic",
            crop_fraction=1.0,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        spaces=documents,
        studies=tuple(
            StudyPlan(task=task, space=space, num_trials=num_trials)
            for task in tasks
            for space in spaces
        ),
        seed=seed,
        sampler=sampler,
        pruner=made_pruner(pruner, first_rung_epochs),
        versions={"python": "3.11.9", "torch": "2.15.0"},
    )


def made_pruner(name: str, first_rung_epochs: int) -> Pruner:
    """With its own first rung where it has any."""
    return plan_pruner(name, {} if name == "none" else {"first_rung_epochs": first_rung_epochs})


def make_record(plan: SweepPlan, tmp_path: Path) -> Record:
    return Record(plan, f"sqlite:///{tmp_path / 'studies.db'}")


def curve_to(accuracy: float, epochs: int) -> list[dict[str, float]]:
    """Rows that rise to `accuracy`, with every metric that training reports."""
    return [
        {
            "epoch": epoch,
            "scaled_lr": 0.1 * (1 - (epoch - 1) / epochs),
            "train_loss": 2.3 / epoch,
            "val_loss": 2.4 / epoch,
            "val_accuracy": accuracy * (1 - 0.5 ** (2 * epoch / epochs)) / 0.75,
            "train_seconds": 0.2,
            "eval_seconds": 0.05,
        }
        for epoch in range(1, epochs + 1)
    ]


def facts_of(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What a worker tells beside the metrics, as the storage keeps it."""
    return trial_facts(rows).stored()


def trial_facts(rows: Sequence[Mapping[str, float]]) -> TrialFacts:
    """What a worker tells beside the metrics."""
    return TrialFacts(
        wall_seconds=0.5 + sum(row["train_seconds"] + row["eval_seconds"] for row in rows),
        setup_seconds=0.5,
        train_seconds=sum(row["train_seconds"] for row in rows),
        eval_seconds=sum(row["eval_seconds"] for row in rows),
        images_per_second=4000.0,
        num_tuned_parameters=18_250,
        peak_memory_mib=512.5,
        readout="cls",
        host="node-7",
        device="cpu",
        cpu_threads=1,
        precision="fp32",
        attention="fused",
        frozen_work="",
        part_size=None,
        recompute=False,
    )


def run_trial(
    record: Record, study: str, *, ending: str = "complete", accuracy: float = 0.5
) -> TrialRecord:
    """Ask for a trial and bring it to an end: complete, pruned, failed, or running for ever."""
    trial = record.ask(study)
    rows: list[EpochRow] = list(curve_to(accuracy, EPOCHS))
    kept = {"complete": rows, "pruned": rows[:2], "failed": rows[:1], "running": rows[:1]}[ending]
    for row in kept:
        record.report(study, trial.number, [row], finished=row is rows[-1])
    facts = facts_of(kept)
    match ending:
        case "complete":
            record.complete(study, trial.number, curve=kept, facts=facts)
        case "pruned":
            record.prune(study, trial.number, curve=kept, facts=facts)
        case "failed":
            reason = "loss is nan at epoch 2, step 1 of 7, lr 9.81"
            record.fail(study, trial.number, reason=reason, curve=kept, facts=facts)
    return record.trial(study, trial.number)


LONGEST_WAIT_SECONDS = 500
"""How long a test waits for what comes. No promise of speed: only what hangs takes as long."""


def wait_for(condition: Any, seconds: float = LONGEST_WAIT_SECONDS) -> None:
    """Return when `condition()` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
