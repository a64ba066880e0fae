"""One run in MLflow, brought up to what it should show: only what differs is sent."""

import contextlib
import getpass
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.tracking.backend import Point, RunContent
from orchestrator.tracking.mlflow.known_runs import KnownRun, Shown, known
from orchestrator.tracking.study_files import digest_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATUS = {
    "running": "RUNNING",
    "frozen": "SCHEDULED",
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
}
"""MLflow's word for the state of a trial or a study. To have been pruned is no failure, and MLflow
shows KILLED as one; the tag `state` and the note tell it from a complete trial."""

OLDER_STATUS = {"pruned": "KILLED"}
"""What an older version wrote instead."""

PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
NOTE_DIGEST_TAG = "orchestrator.note"
"""The tag with the digest of the note as we wrote it: another one is a person's."""

MAX_VALUE_CHARACTERS = 5000
"""MLflow takes 6000 in a param and 8000 in a tag."""


def as_mlflow_takes_it(content: RunContent, parent: str | None) -> RunContent:
    """With the tag that puts it below the run `parent`, and with values that are not too long."""
    tags = content.tags if parent is None else {**content.tags, PARENT_TAG: parent}
    return replace(
        content,
        tags={name: _cut(text) for name, text in tags.items()},
        params={name: _cut(text) for name, text in content.params.items()},
    )


def create_run(client: "MlflowClient", experiment_id: str, content: RunContent) -> KnownRun:
    tags = {"mlflow.source.name": "orchestrator", "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(KeyError, OSError):  # a container may run as nobody known
        tags["mlflow.user"] = getpass.getuser()
    if content.note is not None:
        tags |= _note_tags(content.note)
    run = client.create_run(
        experiment_id,
        start_time=content.start,
        tags={**tags, **content.tags},
        run_name=content.name,
    )
    return replace(known(run), known_points={})


def write_into(client: "MlflowClient", run: KnownRun, content: RunContent) -> bool:
    """Write what differs; whether anything did."""
    from mlflow.entities import Metric, Param, RunTag

    status = STATUS[content.state]
    tags = {k: v for k, v in content.tags.items() if run.tags.get(k) != v}
    as_wanted = run.status == status and content.end in (None, run.end)
    # Status and end are written last: where they are right, all before them arrived.
    if content.end is not None and as_wanted and not tags:
        return False
    there = _known_points(client, run, content.leading)
    points = _new_points(content, there)
    metrics = [
        Metric(name, value, point.timestamp, point.step)
        for point in points
        # The leading metric last: where it arrived, the others of its step did.
        for name, value in sorted(point.values.items(), key=lambda i: i[0] == content.leading)
    ]
    if content.end is not None:
        metrics += [Metric(k, v, content.end, 0) for k, v in content.totals.items()]
    metrics += [
        Metric(name, value, point.timestamp, point.step)
        for point in content.afterwards
        for name, value in point.values.items()
    ]
    params = {k: v for k, v in content.params.items() if k not in run.params}
    if as_wanted and not (tags or metrics or params):
        return False
    client.log_batch(  # in as many requests as it needs
        run.run_id,
        metrics=metrics,
        params=[Param(k, v) for k, v in params.items()],
        tags=[RunTag(k, v) for k, v in tags.items()],
        synchronous=True,
    )
    run.tags |= tags
    run.params |= params.keys()
    there |= {p.step: Shown(p.values[content.leading], p.timestamp) for p in points}
    if content.end is not None:
        client.set_terminated(run.run_id, status, content.end)
        run.known_points = None  # let go; asked for again if ever needed
    elif run.status != status:
        client.update_run(run.run_id, status)
    run.status, run.end = status, content.end
    return True


def remove_passed_tags(client: "MlflowClient", run: KnownRun, content: RunContent) -> None:
    """Those of an earlier state."""
    passing = tuple(content.passing_tags)
    for name in [name for name in run.tags if passing and name.startswith(passing)]:
        if name not in content.tags:
            client.delete_tag(run.run_id, name)
            del run.tags[name]


def renew_note(client: "MlflowClient", run: KnownRun, note: str) -> None:
    """Unless a person has written another one."""
    shown, written = run.tags.get(NOTE_TAG, ""), run.tags.get(NOTE_DIGEST_TAG)
    untouched = written == digest_of([("", shown.encode())]) if written else not shown
    if shown != note and untouched:
        for name, value in _note_tags(note).items():
            client.set_tag(run.run_id, name, value, synchronous=True)
            run.tags[name] = value


def _known_points(client: "MlflowClient", run: KnownRun, leading: str) -> dict[int, Shown]:
    if run.known_points is None:
        history = client.get_metric_history(run.run_id, leading)
        run.known_points = {m.step: Shown(m.value, m.timestamp) for m in history}
    return run.known_points


def _new_points(content: RunContent, known: Mapping[int, Shown]) -> list[Point]:
    """The points that MLflow lacks, none earlier than the epoch before it or what it replaces.

    MLflow sorts by time, and a trial that went on after a fault counts other seconds for its
    epochs than those that were shown before the fault.
    """
    wanted = {point.step: point for point in content.points}
    new, latest = [], 0
    for step in sorted(known.keys() | wanted.keys()):
        point, shown = wanted.get(step), known.get(step)
        if shown is not None:
            latest = max(latest, shown.timestamp)
        if point is None or (shown and shown.value == point.values[content.leading]):
            continue
        latest = max(latest + 1 if shown else latest, point.timestamp)
        new.append(replace(point, timestamp=latest))
    return new


def _note_tags(note: str) -> dict[str, str]:
    return {NOTE_TAG: note, NOTE_DIGEST_TAG: digest_of([("", note.encode())])}


def _cut(text: str) -> str:
    if len(text) <= MAX_VALUE_CHARACTERS:
        return text
    return text[: MAX_VALUE_CHARACTERS - 1] + "…"
