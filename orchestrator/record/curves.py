"""Whole learning curves, to replay a search on: a row for each trial, in one Parquet file.

Only what a search sees is kept; nothing of a test split is.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.plan.plan import StudyPlan, SweepPlan, TaskPlan
from orchestrator.plan.pruners import Pruner
from orchestrator.record.record import TrialRecord
from orchestrator.support.whole_file import whole_file
from orchestrator.training.backbone import BackbonePlan

CURVES_FILE = "evidence/curves.parquet"
"""In `search_spaces/`: those that come with this package."""


@dataclass(frozen=True, kw_only=True)
class RecordedTrial:
    """A trial that ran to its last epoch, or failed on the way."""

    task: str
    num_classes: int
    num_train: int
    num_val: int
    """Val images that an accuracy is as sure as."""
    val_majority_share: float | None
    """The score of always answering the most frequent class."""
    metric: str
    data_fingerprint: str
    space: str
    method: str
    backbone: str
    backbone_weights_sha256: str
    image_size: int
    fixed: Mapping[str, Any]
    """What its space holds fixed."""
    config: Mapping[str, Any]
    """What was searched."""
    seed: int
    epochs: int
    """Of a whole trial; a failed one has fewer values below."""
    val_accuracy: Sequence[float]
    """After each epoch, in [0, 1]."""
    val_loss: Sequence[float]
    train_loss: Sequence[float]
    seconds: Sequence[float]
    """Of training and validation, epoch by epoch, where it was recorded."""
    failure: str | None
    finished: str
    """UTC, ISO 8601."""
    version: str
    """Digest of the code that trained it, or the version of this package."""

    @property
    def study(self) -> str:
        return f"{self.task}.{self.space}"


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Recorded trials, and the spaces that they were drawn from."""

    spaces: Mapping[str, Mapping[str, Any]]
    """Each in full, by name."""
    trials: Sequence[RecordedTrial]
    about: Mapping[str, Any] = field(default_factory=dict)
    """How they were made."""

    @property
    def tasks(self) -> list[str]:
        return sorted({trial.task for trial in self.trials})

    def of(self, study: str) -> list[RecordedTrial]:
        return [trial for trial in self.trials if trial.study == study]


_LISTS = ("val_accuracy", "val_loss", "train_loss", "seconds")
_DOCUMENTS = ("fixed", "config")
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64()}


def _schema() -> pa.Schema:
    found = []
    for one in fields(RecordedTrial):
        if one.name in _LISTS:
            kind: pa.DataType = pa.list_(pa.float32())
        elif one.name in _DOCUMENTS:
            kind = pa.string()
        else:
            kind = next(arrow for plain, arrow in _ARROW.items() if plain.__name__ in str(one.type))
        found.append(pa.field(one.name, kind))
    return pa.schema(found)


def curves_of(plan: SweepPlan, trials: Iterable[TrialRecord]) -> Curves:
    """The trials of a sweep that were validated after every epoch and not stopped early."""
    spaces = {name: _without_start(document) for name, document in plan.spaces.items()}
    return Curves(spaces=spaces, trials=_recorded(plan, trials))


def _without_start(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "start"}


def _recorded(plan: SweepPlan, trials: Iterable[TrialRecord]) -> list[RecordedTrial]:
    found = []
    for trial in trials:
        if not (trial.state == "complete" or _diverged(trial)) or trial.finished is None:
            continue
        if any("val_accuracy" not in row for row in trial.curve):
            continue
        study = plan.study(trial.study)
        task, space = plan.task(study.task), plan.parsed_spaces[study.space]
        epochs = space.unsearched["epochs"]
        assert isinstance(epochs, int)
        rows: Sequence[Mapping[str, Any]] = trial.curve
        found.append(
            RecordedTrial(
                task=task.name,
                num_classes=task.num_classes,
                num_train=task.num_train,
                num_val=round(trial.val_images(task)),
                val_majority_share=task.val_majority_share,
                metric=task.metric,
                data_fingerprint=task.fingerprint,
                space=space.name,
                method=space.method,
                backbone=plan.backbone.name,
                backbone_weights_sha256=plan.backbone.weights_sha256,
                image_size=plan.backbone.image_size,
                fixed=space.fixed,
                config=space.searched(trial.config),
                seed=trial.seed,
                epochs=epochs,
                val_accuracy=[row["val_accuracy"] for row in rows],
                val_loss=[row.get("val_loss", float("nan")) for row in rows],
                train_loss=[row.get("train_loss", float("nan")) for row in rows],
                seconds=[
                    row.get("train_seconds", 0.0) + row.get("eval_seconds", 0.0) for row in rows
                ],
                failure=trial.failure,
                finished=trial.finished.isoformat(timespec="seconds"),
                version=plan.versions.get("code", plan.versions.get("orchestrator", "")),
            )
        )
    return found


def _diverged(trial: TrialRecord) -> bool:
    """Whether its values are to blame: any other failure would not come again."""
    return trial.state == "failed" and "loss is" in (trial.failure or "")


def write_curves(path: Path, curves: Curves) -> None:
    rows = [asdict(trial) for trial in curves.trials]
    for row in rows:
        row.update({name: json.dumps(row[name], sort_keys=True) for name in _DOCUMENTS})
    told = {"about": json.dumps(curves.about), "spaces": json.dumps(curves.spaces)}
    table = pa.Table.from_pylist(rows, _schema().with_metadata(told))
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_curves(path: Path | None = None) -> Curves:
    """Those of a file, or those that come with this package; ValueError if the file is none."""
    if path is None:
        with resources.as_file(resources.files("search_spaces") / CURVES_FILE) as shipped:
            return read_curves(shipped)
    try:
        table = pq.read_table(path)
        rows = table.cast(_schema()).to_pylist()
        about, spaces = (json.loads(table.schema.metadata[key]) for key in (b"about", b"spaces"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of learning curves") from error
    except (OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: is not a file of learning curves: {error}") from error
    for row in rows:
        row.update({name: json.loads(row[name]) for name in _DOCUMENTS})
    return Curves(spaces=spaces, trials=[RecordedTrial(**row) for row in rows], about=about)


def plan_on(
    curves: Curves,
    studies: Sequence[StudyPlan],
    *,
    pruner: Pruner,
    sampler: str = "tpe",
    seed: int = 0,
    share_winners: bool = False,
) -> SweepPlan:
    """A plan of these studies on what was recorded, as `sweep` would have written it."""
    first = {trial.task: trial for trial in reversed(curves.trials)}
    used = {study.task: first[study.task] for study in studies}
    spaces = {study.space: curves.spaces[study.space] for study in studies}
    some = next(iter(used.values()))
    return SweepPlan(
        name="replayed",
        created=some.finished,
        suite="recorded",
        data_root=None,
        tasks=tuple(
            TaskPlan(
                name=task,
                group="",
                num_classes=trial.num_classes,
                num_train=trial.num_train,
                num_val=trial.num_val,
                root="recorded",
                fingerprint=trial.data_fingerprint,
                metric=trial.metric,
            )
            for task, trial in used.items()
        ),
        backbone=BackbonePlan(
            name=some.backbone,
            weights=None,
            weights_sha256=some.backbone_weights_sha256,
            image_size=some.image_size,
            num_parameters=1,
            resize="squash",
            interpolation="bicubic",
            crop_fraction=1.0,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        spaces=spaces,
        studies=tuple(studies),
        seed=seed,
        sampler=sampler,
        share_winners=share_winners,
        pruner=pruner,
        versions={},
    )
