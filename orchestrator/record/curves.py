"""Whole learning curves, to replay a search on: a row for each trial, in one Parquet file.

Only what a search sees is kept; nothing of a test split is.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import TrialRecord
from orchestrator.support.whole_file import whole_file

CURVES_FILE = "curves.parquet"
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
    backbone_weights_sha256: str | None
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


def recorded_trials(plan: SweepPlan, trials: Iterable[TrialRecord]) -> list[RecordedTrial]:
    """The trials of a sweep that were validated after every epoch and not stopped early."""
    found = []
    for trial in trials:
        if trial.state not in ("complete", "failed") or trial.finished is None:
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


def write_curves(path: Path, trials: Sequence[RecordedTrial], about: Mapping[str, Any]) -> None:
    """`about` says how they were made; it is kept in the metadata of the file."""
    rows = [asdict(trial) for trial in trials]
    for row in rows:
        row.update({name: json.dumps(row[name], sort_keys=True) for name in _DOCUMENTS})
    schema = _schema().with_metadata({"about": json.dumps(about)})
    with whole_file(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema), file, compression="zstd")


def read_curves(path: Path | None = None) -> list[RecordedTrial]:
    """Those of a file, or those that come with this package; ValueError if the file is none."""
    if path is None:
        with resources.as_file(resources.files("search_spaces") / CURVES_FILE) as shipped:
            return read_curves(shipped)
    try:
        rows = pq.read_table(path, schema=_schema()).to_pylist()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of learning curves") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: is not a file of learning curves: {error}") from error
    for row in rows:
        row.update({name: json.loads(row[name]) for name in _DOCUMENTS})
    return [RecordedTrial(**row) for row in rows]


def about_curves(path: Path) -> Mapping[str, Any]:
    """How the trials of a file were made."""
    return json.loads((pq.read_schema(path).metadata or {}).get(b"about", b"{}"))
