"""Writes what runs should show to MLflow, each into the one run that is its own for ever."""

import contextlib
import getpass
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.bundle.bundle import BUNDLE_SUFFIXES
from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import TrialRecord
from orchestrator.support.commit_points import commit_point
from orchestrator.support.yaml_io import dump_yaml
from orchestrator.tracking.content import (
    BEST_PREFIX,
    CAUTION_TAG,
    STUDY_TAG,
    TRIAL_TAG,
    Point,
    RunContent,
    saved_views,
    study_content,
    sweep_id,
    sweep_note,
    trial_content,
)
from orchestrator.tracking.mlflow.places import sentence, settle
from orchestrator.tracking.mlflow.registry import (
    DIGEST_TAG,
    FOLDER_PREFIX,
    MODEL_FILE,
    model_name,
    register_winner,
    restore_models,
)
from orchestrator.tracking.mlflow.store import (
    artifact_location,
    missing_files,
    open_client,
)
from orchestrator.training.facts import EpochRow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

logger = logging.getLogger(__name__)

SPACE_FILE = "search_space.yaml"
PAGE_FILE = "study.html"
IMPORTANCE_FILE = "importance.json"
BEST_FOLDER = "best"

SWEEP_TAG = "orchestrator.sweep_id"
SPACE_FILE_TAG = "orchestrator.space_file"
IMPORTANCE_TAG = "orchestrator.importance"
PAGE_TAG = "orchestrator.page"
BEST_FILES_TAG = "orchestrator.best_files"
"""Digests of what was uploaded, or of what it was made from."""

_FILE_OF_TAG = {SPACE_FILE_TAG: SPACE_FILE, IMPORTANCE_TAG: IMPORTANCE_FILE, PAGE_TAG: PAGE_FILE}

NOTE_TAG = "mlflow.note.content"
NOTE_DIGEST_TAG = "orchestrator.note"
"""Of the note as we wrote it: another one is a person's."""

DATASET_TAG = "orchestrator.dataset"
DATASET_DIGEST_CHARACTERS = 36
"""MLflow takes no longer ones."""


class _Shown(NamedTuple):
    """A point of a metric in MLflow."""

    value: float
    timestamp: int


@dataclass
class _KnownRun:
    """A run in MLflow as we last saw or left it."""

    run_id: str
    deleted: bool
    status: str
    end: int | None
    tags: dict[str, str]
    has_params: bool
    known_points: dict[int, _Shown] | None
    """Of the leading metric, by step; None: not asked yet."""


class RunWriter:
    """Writes trials and studies to MLflow, each into the one run that is its own for ever."""

    def __init__(self, plan: SweepPlan, uri: str, artifacts: Path | None) -> None:
        self._plan = plan
        self._uri = uri
        self._artifacts = artifact_location(uri, artifacts)
        self._client_or_none: MlflowClient | None = None
        self._experiment_id = ""
        self._runs: dict[tuple[str, str], _KnownRun] | None = None
        self._doubles: list[str] = []

    @property
    def _client(self) -> "MlflowClient":
        if self._client_or_none is None:
            self._client_or_none = open_client(self._uri)
        return self._client_or_none

    def connect(self) -> None:
        """Find the experiment and its runs, or make the experiment; nothing if that is done."""
        if self._runs is not None:
            return
        self._settle()
        experiment = self.find_experiment()
        if experiment is None:
            self._experiment_id = self._create_experiment()
        else:
            self._experiment_id = experiment.experiment_id
            if experiment.lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment.experiment_id)
                logger.warning(
                    "the MLflow experiment %s had been deleted; it is restored, since its sweep "
                    "goes on",
                    experiment.name,
                )
        self._runs, self._doubles = self._list_runs()

    def look(self) -> bool:
        """Find the experiment and change nothing; False if there is none."""
        experiment = self.find_experiment()
        if experiment is None:
            return False
        self._experiment_id = experiment.experiment_id
        return True

    def _settle(self) -> None:
        """Files go below the sweep's folder, also where it was moved."""
        if changed := settle(self._uri, self._plan):
            logger.warning("MLflow: %s; set to this folder", sentence(changed))

    def disconnect(self) -> None:
        """Forget what MLflow held: after an error it is not known which writes arrived."""
        self._runs = None

    def find_experiment(self) -> "Experiment | None":
        """By its tag, so that a person may rename it."""
        from mlflow.entities import ViewType

        found = self._client.search_experiments(
            view_type=ViewType.ALL,
            filter_string=f"tags.`{SWEEP_TAG}` = '{sweep_id(self._plan)}'",
            order_by=["creation_time ASC"],
        )
        return found[0] if found else None

    def _create_experiment(self) -> str:
        plan = self._plan
        # Another sweep, or another person, may have an experiment of this name on the server.
        taken = self._client.get_experiment_by_name(plan.name) is not None
        return self._client.create_experiment(
            f"{plan.name} ({plan.created})" if taken else plan.name,
            artifact_location=self._artifacts,
            tags={
                SWEEP_TAG: sweep_id(plan),
                "orchestrator.sweep": plan.name,
                "mlflow.experimentKind": "custom_model_development",
                "mlflow.note.content": sweep_note(plan),
                **saved_views(plan),
            },
        )

    def _list_runs(self) -> tuple[dict[tuple[str, str], _KnownRun], list[str]]:
        kept: dict[tuple[str, str], Run] = {}
        doubles: list[str] = []
        for run in self._search_runs():
            study = run.data.tags.get(STUDY_TAG)
            if study is None:
                continue  # a person's own run
            key = (study, run.data.tags.get(TRIAL_TAG, ""))
            same = [run, kept[key]] if key in kept else [run]
            same.sort(key=_preference)
            kept[key] = same[0]
            doubles += [r.info.run_id for r in same[1:] if r.info.lifecycle_stage == "active"]
        return {key: _known(run) for key, run in kept.items()}, doubles

    def _search_runs(self) -> Iterator["Run"]:
        from mlflow.entities import ViewType

        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                run_view_type=ViewType.ALL,
                max_results=1000,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def own_runs(self) -> Iterator["Run"]:
        """Runs of ours, also those in the trash."""
        return (run for run in self._search_runs() if STUDY_TAG in run.data.tags)

    def missing_of(self, run: "Run") -> list[str]:
        """Files that the run of a study should have by its tags, and models of it, by name."""
        client, run_id = self._client, run.info.run_id
        names = [name for tag, name in _FILE_OF_TAG.items() if tag in run.data.tags]
        if BEST_FILES_TAG in run.data.tags:
            task = run.data.tags["task"]
            names += [f"{BEST_FOLDER}/{task}{suffix}" for suffix in BUNDLE_SUFFIXES]
        versions = client.search_model_versions(f"run_id = '{run_id}'")
        digests = [version.tags.get(DIGEST_TAG) for version in versions]
        models = [f"{FOLDER_PREFIX}{digest}/{MODEL_FILE}" for digest in digests if digest]
        return missing_files(client, run_id, [*names, *models])

    def restore_models(self, study: str, folders: Mapping[str, Path]) -> int:
        """Models of the study whose files are gone, made again from bundles by `model_folder`."""
        run = self._run((study, ""))
        return 0 if run.deleted else restore_models(self._client, run.run_id, folders)

    def delete_doubles(self) -> int:
        """Move second runs of a trial to the trash; how many there were.

        They come from a request that was lost for us and arrived all the same.
        """
        for run_id in self._doubles:
            self._client.delete_run(run_id)
        count, self._doubles = len(self._doubles), []
        return count

    def write_study(self, study: str, trials: Sequence[TrialRecord]) -> str:
        """Bring the parent run up to date with the trials of its study so far."""
        content = study_content(self._plan, self._plan.study(study), trials)
        done = self._write(content)
        run = self._run(content.key)
        if run.deleted:
            return done
        for name in [n for n in run.tags if n.startswith(BEST_PREFIX) or n == CAUTION_TAG]:
            if name not in content.tags:  # of an earlier best trial
                self._client.delete_tag(run.run_id, name)
                del run.tags[name]
        self._renew_note(run, content.note or "")
        return done

    def _renew_note(self, run: _KnownRun, note: str) -> None:
        """Unless a person has written another one."""
        shown = run.tags.get(NOTE_TAG, "")
        if shown != note and run.tags.get(NOTE_DIGEST_TAG) == _digest([("", shown.encode())]):
            for name, value in _note_tags(note).items():
                self._client.set_tag(run.run_id, name, value, synchronous=True)
                run.tags[name] = value

    def write_trial(self, trial: TrialRecord, curve: Sequence[EpochRow]) -> str:
        """Bring the run of a trial up to date: created, updated, unchanged or deleted."""
        return self.write_child(trial_content(self._plan, trial, curve))

    def write_child(self, content: RunContent) -> str:
        """Bring a run below the run of its study up to date."""
        parent = self._run((content.key[0], ""))
        return self._write(
            replace(content, tags={**content.tags, "mlflow.parentRunId": parent.run_id})
        )

    def write_files(self, study: str, best_files: Sequence[Path]) -> None:
        """Keep the study's space and the files of its best trial as artifacts of the parent."""
        run = self._run((study, ""))
        if run.deleted:
            return
        space = dump_yaml(dict(self._plan.spaces[self._plan.study(study).space]))
        self._upload(
            run,
            SPACE_FILE_TAG,
            _digest([(SPACE_FILE, space.encode())]),
            [SPACE_FILE],
            lambda: self._client.log_text(run.run_id, space, SPACE_FILE),
        )
        if best_files:
            self._upload(
                run,
                BEST_FILES_TAG,
                _digest((file.name, file.read_bytes()) for file in best_files),
                [f"{BEST_FOLDER}/{file.name}" for file in best_files],
                lambda: [
                    self._client.log_artifact(run.run_id, str(f), BEST_FOLDER) for f in best_files
                ],
            )

    def write_dataset(self, study: str) -> None:
        """Name the images of the study, with their fingerprint, as an input of its run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        run, task = self._run((study, "")), self._plan.task(self._plan.study(study).task)
        if run.deleted or run.tags.get(DATASET_TAG) == task.fingerprint:
            return
        shape = {"classes": task.num_classes, "train": task.num_train, "val": task.num_val}
        dataset = Dataset(
            name=task.name,
            digest=task.fingerprint[:DATASET_DIGEST_CHARACTERS],
            source_type="local",
            source=json.dumps({"uri": task.root}),
            profile=json.dumps(shape),
        )
        context = [InputTag("mlflow.data.context", "search")]
        self._client.log_inputs(run.run_id, [DatasetInput(dataset, context)])
        self._client.set_tag(run.run_id, DATASET_TAG, task.fingerprint, synchronous=True)
        run.tags[DATASET_TAG] = task.fingerprint

    def write_importance(self, study: str, importance: Mapping[str, float]) -> None:
        """How much each hyper-parameter mattered, as metrics of the study's run."""
        run = self._run((study, ""))
        document = json.dumps(importance, indent=2)
        if importance and not run.deleted:
            self._upload(
                run,
                IMPORTANCE_TAG,
                _digest([(IMPORTANCE_FILE, document.encode())]),
                [IMPORTANCE_FILE],
                lambda: self._client.log_text(run.run_id, document, IMPORTANCE_FILE),
            )

    def write_page(
        self, study: str, trials: Sequence[TrialRecord], draw: Callable[[], str]
    ) -> None:
        """Keep the page with the study's figures, drawn after `trials`."""
        run = self._run((study, ""))
        drawn_from = [(t.number, t.state, len(t.curve)) for t in trials]
        if not run.deleted:
            self._upload(
                run,
                PAGE_TAG,
                _digest([(PAGE_FILE, json.dumps(drawn_from).encode())]),
                [PAGE_FILE],
                lambda: self._client.log_text(run.run_id, draw(), PAGE_FILE),
            )

    def register(self, study: str, bundle: Path) -> None:
        """Register the winner of a task, found in `study`, as a model."""
        run = self._run((study, ""))
        if not run.deleted:
            name = model_name(self._plan.name, self._plan.study(study).task)
            register_winner(self._client, run.run_id, name, bundle)

    def _upload(
        self,
        run: _KnownRun,
        tag: str,
        digest: str,
        names: Sequence[str],
        upload: Callable[[], object],
    ) -> None:
        """`names` are the files that are there afterwards, unless they are already."""
        if run.tags.get(tag) != digest or missing_files(self._client, run.run_id, names):
            upload()
            self._client.set_tag(run.run_id, tag, digest, synchronous=True)
            run.tags[tag] = digest

    def _run(self, key: tuple[str, str]) -> _KnownRun:
        assert self._runs is not None, "connect() comes first"
        return self._runs[key]

    def _write(self, content: RunContent) -> str:
        assert self._runs is not None, "connect() comes first"
        created = content.key not in self._runs
        if created:
            self._runs[content.key] = self._create_run(content)
        run = self._run(content.key)
        if run.deleted:
            return "deleted"
        commit_point("before tracking")
        changed = self._write_into(run, content)
        commit_point("after tracking")
        return "created" if created else "updated" if changed else "unchanged"

    def _create_run(self, content: RunContent) -> _KnownRun:
        tags = {"mlflow.source.name": "orchestrator", "mlflow.source.type": "LOCAL"}
        with contextlib.suppress(KeyError, OSError):  # a container may run as nobody known
            tags["mlflow.user"] = getpass.getuser()
        if content.note is not None:
            tags |= _note_tags(content.note)
        run = self._client.create_run(
            self._experiment_id,
            start_time=content.start,
            tags={**tags, **content.tags},
            run_name=content.name,
        )
        return replace(_known(run), known_points={})

    def _write_into(self, run: _KnownRun, content: RunContent) -> bool:
        """Write what differs; whether anything did."""
        from mlflow.entities import Metric, Param, RunTag

        tags = {k: v for k, v in content.tags.items() if run.tags.get(k) != v}
        as_wanted = run.status == content.status and content.end in (None, run.end)
        # Status and end are written last: where they are right, all before them arrived.
        if content.end is not None and as_wanted and not tags:
            return False
        known = self._known_points(run, content.leading)
        points = _new_points(content, known)
        metrics = [
            Metric(name, value, point.timestamp, point.step)
            for point in points
            # The leading metric last: where it arrived, the others of its step did.
            for name, value in sorted(point.values.items(), key=lambda i: i[0] == content.leading)
        ]
        if content.end is not None:
            metrics += [Metric(k, v, content.end, 0) for k, v in content.totals.items()]
        params = {} if run.has_params else content.params
        if as_wanted and not (tags or metrics or params):
            return False
        self._client.log_batch(  # in as many requests as it needs
            run.run_id,
            metrics=metrics,
            params=[Param(k, v) for k, v in params.items()],
            tags=[RunTag(k, v) for k, v in tags.items()],
            synchronous=True,
        )
        run.tags |= tags
        run.has_params = True
        known |= {p.step: _Shown(p.values[content.leading], p.timestamp) for p in points}
        if content.end is not None:
            self._client.set_terminated(run.run_id, content.status, content.end)
            run.known_points = None  # let go; asked for again if ever needed
        elif run.status != content.status:
            self._client.update_run(run.run_id, content.status)
        run.status, run.end = content.status, content.end
        return True

    def _known_points(self, run: _KnownRun, leading: str) -> dict[int, _Shown]:
        if run.known_points is None:
            history = self._client.get_metric_history(run.run_id, leading)
            run.known_points = {m.step: _Shown(m.value, m.timestamp) for m in history}
        return run.known_points


def _new_points(content: RunContent, known: Mapping[int, _Shown]) -> list[Point]:
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
    return {NOTE_TAG: note, NOTE_DIGEST_TAG: _digest([("", note.encode())])}


def _known(run: "Run") -> _KnownRun:
    return _KnownRun(
        run_id=run.info.run_id,
        deleted=run.info.lifecycle_stage == "deleted",
        status=run.info.status,
        end=run.info.end_time,
        tags=dict(run.data.tags),
        has_params=bool(run.data.params),
        known_points=None,
    )


def _preference(run: "Run") -> tuple[bool, int, str]:
    """Sorts the runs of one trial, the one to keep first."""
    amount = len(run.data.metrics) + len(run.data.params)
    return (run.info.lifecycle_stage == "deleted", -amount, run.info.run_id)


def _digest(files: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()[:16]
