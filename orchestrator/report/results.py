"""The results of a sweep as a table: `results.parquet`, one row per trial.

    import pandas
    trials = pandas.read_parquet("sweeps/mine/results.parquet")
    trials[trials.state == "complete"].plot.scatter("param.lr", "val_accuracy", logx=True)

Beside the columns of RESULTS_SCHEMA there is a `param.<name>` for every hyper-parameter that a
space of the sweep names; a trial whose space does not use it has null there.
"""

import json
import typing
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.space import hyperparameters
from orchestrator.record.record import Record, TrialRecord
from orchestrator.support.commit_points import commit_point
from orchestrator.support.whole_file import whole_file
from orchestrator.training.facts import TrialFacts, described
from orchestrator.training.objective import DEFAULT_METRIC

RESULTS_FILE = "results.parquet"
PARAM_PREFIX = "param."

_TIME = pa.timestamp("us", tz="UTC")
_EPOCH = pa.struct(
    [
        pa.field("epoch", pa.int32()),
        pa.field("scaled_lr", pa.float64()),
        pa.field("train_loss", pa.float64()),
        pa.field("val_loss", pa.float64()),
        pa.field("val_accuracy", pa.float64()),
        pa.field("train_seconds", pa.float64()),
        pa.field("eval_seconds", pa.float64()),
    ]
)


def _column(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": description})


_NOT_SHOWN = ("host", "memory_share")
_FACTS = {name: told for name, told in described(TrialFacts).items() if name not in _NOT_SHOWN}
_ARROW = {
    float: pa.float64(),
    int: pa.int32(),
    str: pa.string(),
    bool: pa.bool_(),
    list[int]: pa.list_(pa.int32()),
}
_ARROW |= {kind | None: arrow for kind, arrow in _ARROW.items()}


def _fact(name: str) -> pa.Field:
    kind, description = _FACTS[name]
    is_large = name == "num_tuned_parameters"
    return _column(name, pa.int64() if is_large else _ARROW[kind], description)


RESULTS_SCHEMA = pa.schema(
    [
        _column("sweep", pa.string(), "name of the sweep"),
        _column("study", pa.string(), "<task>.<space>"),
        _column("task", pa.string(), "data set"),
        _column("group", pa.string(), "group of the task in its suite; empty if it has none"),
        _column("method", pa.string(), "how the frozen network is changed"),
        _column("space", pa.string(), "search space of the study"),
        _column("backbone", pa.string(), "timm name of the frozen network"),
        _column("backbone_weights_sha256", pa.string(), "of its weights"),
        _column("metric", pa.string(), "what val_accuracy is: top1 or mean_per_class"),
        _column("number", pa.int32(), "of the trial in its study, from 0"),
        _column("state", pa.string(), "running, frozen, complete, pruned or failed"),
        _column(
            "val_accuracy",
            pa.float64(),
            "by `metric` (top1: the share of val images that are right), in [0, 1], after the last "
            "epoch that was run",
        ),
        _column("num_val", pa.int32(), "val images that val_accuracy was measured on"),
        _column(
            "val_majority_share",
            pa.float64(),
            "val_accuracy of always answering the most frequent class",
        ),
        *map(_fact, ("val_effective_images", "val_images_by_class", "val_correct_by_class")),
        _column("epochs_run", pa.int32(), "epochs until the trial ended"),
        _column("failure", pa.string(), "why the trial failed"),
        _column("seed", pa.int64(), "of everything random in the trial"),
        _column("origin", pa.string(), "where its values come from; null: the sampler drew them"),
        _column("started", _TIME, "when the trial was drawn"),
        _column("finished", _TIME, "when it ended"),
        *(_fact(name) for name in _FACTS if not name.startswith("val_")),
        _column("data_fingerprint", pa.string(), "of the decoded train and val images and labels"),
        _column("config", pa.string(), "searched and fixed hyper-parameters, JSON"),
        _column(
            "curve",
            pa.list_(_EPOCH),
            "metrics after every epoch; scaled_lr is the step size: param.lr is for 256 images",
        ),
    ]
)
"""The columns every results table has; their descriptions are in the metadata of the fields."""

_ADDED = (
    *("metric", "val_majority_share", "val_effective_images"),
    *("val_images_by_class", "val_correct_by_class", "origin"),
)
"""Columns that tables of before them lack."""


def write_results(plan: SweepPlan, record: Record, path: Path) -> None:
    """Write the table of all trials; a reader finds the old file or the new one, never a part."""
    commit_point("before table")
    # Rows of one study at a time: as Python objects they are far larger than as a table.
    parts = [results_table(plan, record.trials(study.name)) for study in plan.studies]
    table = pa.concat_tables(parts)
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")
        commit_point("half table")


def read_results(path: Path) -> pa.Table:
    """The table of a sweep; ValueError if the file is none.

    One of an older version is given the columns and names of this one.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such results file") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: is not a results table: {error}") from error
    missing = [name for name in RESULTS_SCHEMA.names if name not in table.schema.names]
    if unknown := [name for name in missing if name not in _ADDED]:
        raise ValueError(f"{path}: is not a results table: it lacks {', '.join(unknown)}")
    return _as_now(table) if missing else table


def _as_now(table: pa.Table) -> pa.Table:
    """A table of before _ADDED: nulls in these but `metric`, and a curve whose `scaled_lr` was
    called `lr`."""
    columns = {}
    for field in [*RESULTS_SCHEMA, *table.schema]:
        name = field.name
        if name in table.schema.names and name != "curve":
            columns[name] = table[name]
        elif name == "metric":
            columns[name] = pa.array([DEFAULT_METRIC] * table.num_rows, field.type)
        elif name in _ADDED:
            columns[name] = pa.nulls(table.num_rows, field.type)
        else:
            columns[name] = _renamed(table["curve"])
    return pa.table(columns)


def _renamed(curves: pa.ChunkedArray) -> pa.ChunkedArray:
    epochs = pa.struct(
        [field.with_name("scaled_lr") if field.name == "lr" else field for field in _fields(curves)]
    )
    return pa.chunked_array([chunk.view(pa.list_(epochs)) for chunk in curves.chunks])


def _fields(curves: pa.ChunkedArray) -> list[pa.Field]:
    return list(curves.type.value_type)


def results_table(plan: SweepPlan, trials: Sequence[TrialRecord]) -> pa.Table:
    """One row per trial, with RESULTS_SCHEMA and a typed column per hyper-parameter."""
    params = _params(plan)
    schema = RESULTS_SCHEMA
    for name, kind in params.items():
        schema = schema.append(_column(PARAM_PREFIX + name, kind, f"hyper-parameter {name}"))
    return pa.Table.from_pylist([_row(plan, trial, params) for trial in trials], schema=schema)


def _row(plan: SweepPlan, trial: TrialRecord, params: Mapping[str, pa.DataType]) -> dict[str, Any]:
    study = plan.study(trial.study)
    task = plan.task(study.task)
    # Arrow leaves out without a word what its schema does not know.
    unknown = {name for row in trial.curve for name in row} - {field.name for field in _EPOCH}
    assert not unknown, f"the results table has no column for {unknown}"
    return {
        "sweep": plan.name,
        "study": trial.study,
        "task": task.name,
        "group": task.group,
        "method": plan.parsed_spaces[study.space].method,
        "space": study.space,
        "metric": task.metric,
        "backbone": plan.backbone.name,
        "backbone_weights_sha256": plan.backbone.weights_sha256,
        "number": trial.number,
        "state": trial.state,
        "val_accuracy": trial.val_accuracy,
        "num_val": task.num_val,
        "val_majority_share": task.val_majority_share,
        "epochs_run": len(trial.curve),
        "failure": trial.failure,
        "seed": trial.seed,
        "origin": trial.origin,
        "started": _utc(trial.started),
        "finished": _utc(trial.finished),
        "data_fingerprint": task.fingerprint,
        "config": json.dumps(dict(trial.config)),
        "curve": [dict(row) for row in trial.curve],
        **{name: trial.facts.get(name) for name in _FACTS},
        **{
            f"{PARAM_PREFIX}{name}": _as(kind, trial.config.get(name))
            for name, kind in params.items()
        },
    }


def _as(kind: pa.DataType, value: Any) -> Any:
    return value if value is None or not pa.types.is_string(kind) else str(value)


def _params(plan: SweepPlan) -> dict[str, pa.DataType]:
    """Each hyper-parameter that is fixed or searched in any space of the plan, with its type."""
    types: dict[str, set[Any]] = {}
    for space in plan.parsed_spaces.values():
        known = hyperparameters(space.method)
        for name in [*space.fixed, *(dimension.name for dimension in space.dimensions)]:
            parts = typing.get_args(known[name]) or (known[name],)
            types.setdefault(name, set()).update(part for part in parts if part is not NoneType)
    return {name: _arrow_type(found) for name, found in types.items()}


def _arrow_type(types: set[Any]) -> pa.DataType:
    if types == {bool}:
        return pa.bool_()
    if types == {int}:
        return pa.int64()
    return pa.float64() if types <= {int, float} else pa.string()


def _utc(time: datetime | None) -> datetime | None:
    """Optuna keeps UTC and gives local times without zone."""
    return None if time is None else time.astimezone(UTC)
