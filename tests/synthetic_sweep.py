"""A finished sweep without training: curves of a made-up law in a real Optuna storage.

The law: accuracy peaks at a good learning rate, grows with prompt length, and is measured on a
finite number of images. Successive halving is imitated, so that most trials end at a rung.
"""

import math
import random
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial
from plans import SPACES, make_plan

from orchestrator.data.vtab import OFFICIAL_TASKS
from orchestrator.plan.plan import PLAN_FILE, SweepPlan, save_plan
from orchestrator.plan.pruners.successive_halving import SuccessiveHalving
from orchestrator.plan.space import load_space
from orchestrator.record.database import STORAGE_FILE
from orchestrator.record.record import Record, open_record

RUNGS = (15, 60)
METHOD_GAIN = {"linear": -0.12, "vpt_shallow": -0.04, "full": -0.02, "spt_deep": 0.02}
STARTED = datetime(2026, 11, 20, 8, 0)


def synthetic_plan(
    *,
    tasks: Sequence[str] = tuple(OFFICIAL_TASKS),
    spaces: Sequence[str] = ("linear", "vpt_shallow", "vpt_deep"),
    num_trials: int = 20,
    epochs: int = 100,
) -> SweepPlan:
    """A plan over VTAB tasks on the backbone that most papers report."""
    plan = make_plan(name="synthetic", tasks=tasks, num_trials=num_trials, epochs=epochs)
    documents = {}
    for name in spaces:
        document = _SPACES.get(name) or load_space(name).document
        documents[name] = {**document, "fixed": {**document["fixed"], "epochs": epochs}}
    return replace(
        plan,
        spaces=documents,
        studies=tuple(
            replace(plan.studies[0], task=task, space=space) for task in tasks for space in spaces
        ),
        tasks=tuple(_as_official(task) for task in plan.tasks),
        backbone=replace(
            plan.backbone,
            name="vit_base_patch16_224.orig_in21k",
            image_size=224,
            num_parameters=85_798_656,
        ),
        pruner=SuccessiveHalving(first_rung_epochs=RUNGS[0], reduction_factor=4),
    )


def synthetic_record(plan: SweepPlan, folder: Path, *, slots: int = 4) -> Record:
    """The plan's sweep folder with a storage in which every trial has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PLAN_FILE).exists():
        save_plan(plan, folder)
    record = open_record(plan, folder)
    chance = random.Random(0)
    free = [STARTED] * slots
    for study in plan.studies:
        made = [
            _trial(plan, study.task, study.space, number, chance, free)
            for number in range(study.num_trials)
        ]
        record.optuna_study(study.name).add_trials(made)
    _insert_reports(record, folder / STORAGE_FILE)
    return open_record(plan, folder)


def _insert_reports(record: Record, path: Path) -> None:
    """What the trials reported after each epoch. One by one, as Optuna adds them, takes minutes."""
    rows = [
        (trial._trial_id, epoch, accuracy, "FINITE")
        for study in record.plan.studies
        for trial in record.optuna_study(study.name).get_trials(deepcopy=False)
        for epoch, accuracy in enumerate(trial.user_attrs["curve"]["val_accuracy"], start=1)
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO trial_intermediate_values "
            "(trial_id, step, intermediate_value, intermediate_value_type) VALUES (?, ?, ?, ?)",
            rows,
        )


_SPACES: dict[str, dict[str, Any]] = {
    "full": {
        "method": "full",
        "fixed": {},
        "search": {
            "lr": {"choices": [5e-3, 1e-3, 5e-4, 1e-4]},
            "weight_decay": {"choices": [1e-2, 1e-4]},
        },
    },
    "spt_deep": {
        "method": "spt",
        "fixed": {"deep": True},
        "search": {
            "init": {"choices": ["random", "mean_pool", "kmeans"]},
            **SPACES["vpt_deep"]["search"],
        },
    },
}


def _as_official(task: Any) -> Any:
    official = OFFICIAL_TASKS.get(task.name)
    if official is None:
        return task
    return replace(task, group=official.group, num_classes=official.num_classes)


def _trial(
    plan: SweepPlan,
    task: str,
    space_name: str,
    number: int,
    chance: random.Random,
    free: list[datetime],
) -> FrozenTrial:
    space = plan.parsed_spaces[space_name]
    drawn: dict[str, Any] = dict(space.fixed)
    distributions = {}
    for dimension in space.dimensions:
        if dimension.applies(drawn):
            drawn[dimension.name] = _draw(dimension.distribution, chance)
            distributions[dimension.name] = dimension.distribution
    epochs = int(drawn["epochs"])
    top = _law(task, space_name, drawn) + chance.gauss(0, 0.01)
    failed = chance.random() < 0.02
    ends_at = epochs
    for rung in RUNGS:
        if ends_at == epochs and rung < epochs and chance.random() > 0.3 + top / 2:
            ends_at = rung
    if failed:
        ends_at = min(epochs - 1, 3)
    curve = [_row(epoch, epochs, top, drawn, chance) for epoch in range(1, ends_at + 1)]
    state = TrialState.FAIL if failed else TrialState.COMPLETE
    if ends_at < epochs and not failed:
        state = TrialState.PRUNED
    slot = free.index(min(free))
    seconds = {
        "setup_seconds": 0.8,
        "train_seconds": sum(row["train_seconds"] for row in curve),
        "eval_seconds": sum(row["eval_seconds"] for row in curve),
    }
    wall = sum(seconds.values()) + 0.1
    attributes: dict[str, Any] = {
        "curve": {name: [row[name] for row in curve] for name in curve[0]},
        "facts": {
            **seconds,
            "wall_seconds": wall,
            "images_per_second": 800 * len(curve) / seconds["train_seconds"],
            "num_tuned_parameters": 768 * int(drawn.get("num_tokens", 1)) + 7690,
            "device": "cpu",
        },
    }
    if failed:
        attributes["failure"] = f"loss is nan at epoch {ends_at + 1}, step 2 of 7, lr 31.2"
    trial = create_trial(
        state=state,
        value=None if failed else curve[-1]["val_accuracy"],
        params={name: drawn[name] for name in distributions},
        distributions=distributions,
        user_attrs=attributes,
    )
    trial.datetime_start = free[slot]
    free[slot] += timedelta(seconds=wall)
    trial.datetime_complete = free[slot]
    free[slot] += timedelta(seconds=chance.uniform(0, 0.6))
    return trial


def _draw(distribution: Any, chance: random.Random) -> Any:
    if hasattr(distribution, "choices"):
        return chance.choice(distribution.choices)
    if distribution.log:
        return math.exp(chance.uniform(math.log(distribution.low), math.log(distribution.high)))
    return chance.uniform(distribution.low, distribution.high)


def _law(task: str, space: str, drawn: Mapping[str, Any]) -> float:
    ease = 0.55 + 0.3 * random.Random(task).random()
    best_lr = {"full": 1e-3}.get(space, 1.0)
    rate = 0.045 * math.log10(drawn["lr"] / best_lr) ** 2
    length = 0.02 * math.log10(drawn.get("num_tokens", 1))
    return min(0.97, max(0.05, ease + METHOD_GAIN.get(space, 0.0) + length - rate))


def _row(
    epoch: int, epochs: int, top: float, drawn: Mapping[str, Any], chance: random.Random
) -> dict[str, float]:
    reached = top * (1 - math.exp(-5 * epoch / epochs)) + chance.gauss(0, 0.012)
    accuracy = round(200 * min(1.0, max(0.0, reached))) / 200
    tokens = drawn.get("num_tokens", 0)
    return {
        "epoch": float(epoch),
        "scaled_lr": round(drawn["lr"] * 0.5 * (1 + math.cos(math.pi * epoch / epochs)), 6),
        "train_loss": round(2.3 * math.exp(-3 * epoch / epochs), 6),
        "val_loss": round(2.4 * math.exp(-2.5 * epoch / epochs), 6),
        "val_accuracy": accuracy,
        "train_seconds": round(0.35 + tokens / 500 + chance.uniform(0, 0.05), 6),
        "eval_seconds": 0.06,
    }
