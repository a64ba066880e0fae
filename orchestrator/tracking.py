"""What happened, shown in MLflow: an experiment per sweep, a parent run per study, a run per trial.

MLflow is a window, never a source: all it shows stands in the record, and `reconcile` can write it
again. So the tracker may forget what it could not send, and a server that is slow, away or broken
costs the sweep nothing.
"""

import contextlib
import getpass
import hashlib
import json
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.faults import commit_point
from orchestrator.mlflow_runs import (
    BEST_PREFIX,
    STATUS,
    STUDIES_VIEW,
    STUDY_TAG,
    TRIAL_TAG,
    RunContent,
    saved_views,
    study_content,
    sweep_id,
    sweep_note,
    trial_content,
)
from orchestrator.mlflow_server import MLFLOW_ENVIRONMENT
from orchestrator.plan import SweepPlan
from orchestrator.record import FINISHED, EpochRow, Record, TrialRecord
from orchestrator.report.importance import importance
from orchestrator.yaml_io import dump_yaml

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

    from orchestrator.final_record import FinalRecord

logger = logging.getLogger(__name__)

MLFLOW_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlartifacts"
SPACE_FILE = "search_space.yaml"

FLUSH_SECONDS = 2.0
"""What is told within this time goes out together."""
MAX_PAUSE_SECONDS = 30.0
"""The longest wait before a server that was away is asked again."""
ATTEMPTS = 3
"""A write that fails this often while the server answers is left to `reconcile`."""
MAX_UNSENT_ROWS = 20_000
"""Epochs of finished trials kept for a server that is away: some 20 MB."""

SWEEP_TAG = "orchestrator.sweep_id"
SPACE_FILE_TAG = "orchestrator.space_file"
IMPORTANCE_TAG = "orchestrator.importance"
BEST_FILES_TAG = "orchestrator.best_files"
"""Digests of what was uploaded."""

DATASET_TAG = "orchestrator.dataset"
DATASET_DIGEST_CHARACTERS = 36
"""MLflow takes no longer ones."""

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


class TrackingError(Exception):
    """MLflow could not be written to; the message holds no credentials."""


def tracking_uri(folder: Path) -> str:
    """`$MLFLOW_TRACKING_URI`, or the SQLite file of the sweep folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return f"sqlite:///{folder.absolute() / MLFLOW_FILE}"
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise ValueError(
            f"MLFLOW_TRACKING_URI={redacted(uri)}: expected the address of a server (http://...) "
            "or of a database (sqlite:///..., postgresql://...); MLflow writes no plain folders "
            "any more"
        )
    return uri


def redacted(text: str) -> str:
    """`text` without the passwords and tokens that addresses in it may carry."""
    text = re.sub(r"(?<=://)[^/\s]*@", "***@", text)
    return re.sub(r"(?i)(password|passwd|token|secret)=[^&\s]+", r"\1=***", text)


class Tracker:
    """Sends what happened to MLflow from a thread of its own; the caller only appends."""

    def __init__(
        self,
        plan: SweepPlan,
        tracking_uri: str,
        *,
        artifacts: Path | None = None,
        earlier: Iterable[TrialRecord] = (),
    ) -> None:
        """`artifacts`: where files go when we write to a database ourselves; None: beside a SQLite
        file. `earlier`: trials recorded before, when a sweep is resumed, for the studies' counts.
        """
        self._uri = tracking_uri
        self._writer = _Writer(plan, tracking_uri, artifacts)
        self._lock = threading.Lock()
        self._unsent: dict[tuple[str, int], _Unsent] = {}
        self._studies: dict[str, dict[int, TrialRecord]] = {s.name: {} for s in plan.studies}
        self._changed_studies = dict.fromkeys(self._studies)
        for trial in earlier:
            self._count(trial)
        self._warned = False
        self._away = False
        self._closing = threading.Event()
        self._sent_all = False
        self._thread = threading.Thread(target=self._run, name="mlflow-tracker", daemon=True)
        self._thread.start()

    def trial_started(self, trial: TrialRecord) -> None:
        with self._lock:
            self._unsent[trial.study, trial.number] = _Unsent(trial)
            self._count(trial)

    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None:
        with self._lock:
            entry = self._unsent.get((study, number))
            if not rows or entry is None:
                return
            # A trial whose worker died goes again from an earlier epoch.
            entry.curve = [row for row in entry.curve if row["epoch"] < rows[0]["epoch"]]
            entry.curve += rows
            entry.changed = True

    def trial_ended(self, trial: TrialRecord) -> None:
        with self._lock:
            self._unsent[trial.study, trial.number] = _Unsent(trial, list(trial.curve))
            self._count(trial)
            self._forget_oldest()

    def close(self, timeout_seconds: float) -> bool:
        """Send what is left and stop. True: MLflow answers and has all that was kept for it.

        False: it was away; `reconcile` fills in what is missing once it answers.
        """
        self._closing.set()
        self._thread.join(timeout_seconds)
        return self._sent_all and not self._thread.is_alive()

    def _count(self, trial: TrialRecord) -> None:
        self._studies[trial.study][trial.number] = replace(trial, curve=())
        self._changed_studies[trial.study] = None

    def _forget_oldest(self) -> None:
        ended = [key for key, entry in self._unsent.items() if entry.trial.state in FINISHED]
        num_rows = sum(1 + len(self._unsent[key].curve) for key in ended)
        for key in ended:
            if num_rows <= MAX_UNSENT_ROWS:
                break
            num_rows -= 1 + len(self._unsent.pop(key).curve)

    def _run(self) -> None:
        pause = 0.0
        while not self._closing.wait(pause):
            sent = self._flush()
            pause = FLUSH_SECONDS if sent else min(max(2 * pause, FLUSH_SECONDS), MAX_PAUSE_SECONDS)
        self._sent_all = any(self._flush() for _ in range(ATTEMPTS))

    def _flush(self) -> bool:
        try:
            self._writer.connect()
            with self._lock:
                studies = list(self._changed_studies)
                trials = [key for key, entry in self._unsent.items() if entry.changed]
            for study in studies:
                self._send_study(study)
            for key in trials:
                self._send_trial(key)
        except Exception as error:
            # Whatever MLflow, its server or its database throw must not end this thread.
            self._writer.disconnect()
            self._say_away(error)
            return False
        if self._away:
            self._away = False
            logger.info("MLflow at %s answers again", redacted(self._uri))
        return True

    def _send_study(self, study: str) -> None:
        with self._lock:
            trials = list(self._studies[study].values())
            del self._changed_studies[study]
        try:
            self._writer.write_study(study, trials)
        except Exception:
            with self._lock:
                self._changed_studies[study] = None
            raise

    def _send_trial(self, key: tuple[str, int]) -> None:
        with self._lock:
            entry = self._unsent.get(key)
            if entry is None:
                return
            curve = list(entry.curve)
            entry.changed = False
        try:
            self._writer.write_trial(entry.trial, curve)
        except Exception as error:
            entry.failures += 1
            entry.changed = entry.failures < ATTEMPTS
            if entry.changed:
                raise
            logger.warning("MLflow does not take %s #%d (%s)", *key, _reason(error))
        if entry.trial.state in FINISHED:
            with self._lock:
                if self._unsent.get(key) is entry:
                    del self._unsent[key]

    def _say_away(self, error: Exception) -> None:
        if not self._warned:
            logger.warning(
                "MLflow at %s cannot be written to (%s); the sweep goes on, and what is missing "
                "there will be filled in when it is back",
                redacted(self._uri),
                _reason(error),
            )
        self._warned = self._away = True


@dataclass
class _Unsent:
    """What is known of a trial that is running, or has ended and is not yet in MLflow."""

    trial: TrialRecord
    curve: list[EpochRow] = field(default_factory=list)
    changed: bool = True
    failures: int = 0


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What `reconcile` found and did, in trials."""

    created: int
    updated: int
    unchanged: int
    deleted: int
    """Deleted in MLflow by a person, and left so."""
    doubled: int
    """Second runs of a trial, moved to MLflow's trash."""


def reconcile(
    plan: SweepPlan,
    record: Record,
    tracking_uri: str,
    *,
    artifacts: Path | None = None,
    best_files: Callable[[str], list[Path]],
) -> Reconciled:
    """Make MLflow show what the record says; what it shows already is not written again.

    `best_files` names the files of a study's best trial, which become artifacts of the study's run.
    Raises TrackingError if MLflow cannot be written to; then it can simply be called again.
    """
    writer = _Writer(plan, tracking_uri, artifacts)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _reconcile(writer, plan, record, best_files)
        except Exception as error:
            writer.disconnect()
            if isinstance(error, AssertionError | TypeError | LookupError | AttributeError):
                raise  # ours
            if attempt == ATTEMPTS:
                raise TrackingError(
                    f"MLflow at {redacted(tracking_uri)} cannot be written to: {_reason(error)}"
                ) from None
    raise AssertionError("unreachable")


def _reconcile(
    writer: "_Writer",
    plan: SweepPlan,
    record: Record,
    best_files: Callable[[str], list[Path]],
) -> Reconciled:
    writer.connect()
    doubled = writer.delete_doubles()
    done: Counter[str] = Counter()
    for study in plan.studies:
        trials = [trial for trial in record.trials(study.name) if trial.state in STATUS]
        writer.write_study(study.name, trials)
        for trial in trials:
            # The record keeps all metrics of an epoch only when the trial has ended.
            curve = trial.curve if trial.state in FINISHED else ()
            done[writer.write_trial(trial, curve)] += 1
        files = best_files(study.name)
        writer.write_files(study.name, files)
        writer.write_dataset(study.name)
        space = plan.parsed_spaces[study.space]
        writer.write_importance(
            study.name, importance(record.optuna_study(study.name), space).shares
        )
    return Reconciled(
        created=done["created"],
        updated=done["updated"],
        unchanged=done["unchanged"],
        deleted=done["deleted"],
        doubled=doubled,
    )


def register_winners(plan: SweepPlan, tracking_uri: str, bundles: Mapping[str, Path]) -> None:
    """Register the bundle of each task's winner as a model; one that is known stays as it is.

    `bundles` are descriptions (`<task>.yaml`) by study.
    """
    writer = _Writer(plan, tracking_uri, None)
    writer.connect()
    for study, bundle in bundles.items():
        writer.register(study, bundle)


def reconcile_final(
    plan: SweepPlan, record: Record, finals: "FinalRecord", tracking_uri: str
) -> None:
    """Show the last stage: a run per finalist and per seed beside the trials of their study."""
    from orchestrator.mlflow_final import final_contents

    writer = _Writer(plan, tracking_uri, None)
    writer.connect()
    for study in plan.studies:
        trials = [trial for trial in record.trials(study.name) if trial.state in STATUS]
        writer.write_study(study.name, trials)
        for content in final_contents(plan, study, finals):
            writer.write_child(content)


def experiment_page(plan: SweepPlan, tracking_uri: str) -> str | None:
    """Where MLflow's pages show the sweep, after the server's address; None if they do not."""
    experiment = _Writer(plan, tracking_uri, None).find_experiment()
    if experiment is None:
        return None
    view = f"workflowType=machine_learning&viewStateShareKey={STUDIES_VIEW}"
    return f"#/experiments/{experiment.experiment_id}/runs?{view}"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What MLflow shows of a trial; of a study, where the number is empty."""

    study: str
    number: str
    state: str
    """As in the record, if its status says the same."""
    val_accuracy: float | None


def tracked_runs(plan: SweepPlan, tracking_uri: str) -> list[TrackedRun]:
    """The runs of a sweep that are not in the trash. TrackingError if MLflow does not answer."""
    writer = _Writer(plan, tracking_uri, None)
    try:
        if writer.find_experiment() is None:
            return []
        writer.connect()
        return [_tracked(run) for run in writer.active_runs()]
    except Exception as error:
        raise TrackingError(
            f"MLflow at {redacted(tracking_uri)} cannot be read: {_reason(error)}"
        ) from None


@dataclass
class _KnownRun:
    """A run in MLflow as we last saw or left it."""

    run_id: str
    deleted: bool
    status: str
    end: int | None
    tags: dict[str, str]
    has_params: bool
    known_points: dict[int, float] | None
    """Value of the leading metric by step; None: not asked yet."""


class _Writer:
    """Writes trials and studies to MLflow, each into the one run that is its own for ever."""

    def __init__(self, plan: SweepPlan, uri: str, artifacts: Path | None) -> None:
        self._plan = plan
        self._uri = uri
        self._artifacts = _artifact_location(uri, artifacts)
        self._client_or_none: MlflowClient | None = None
        self._experiment_id = ""
        self._runs: dict[tuple[str, str], _KnownRun] | None = None
        self._doubles: list[str] = []

    @property
    def _client(self) -> "MlflowClient":
        if self._client_or_none is None:
            self._client_or_none = _open_client(self._uri)
        return self._client_or_none

    def connect(self) -> None:
        """Find the experiment and its runs, or make the experiment; nothing if that is done."""
        if self._runs is not None:
            return
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

    def active_runs(self) -> Iterator["Run"]:
        """Runs of ours that nobody has deleted."""
        for run in self._search_runs():
            if run.info.lifecycle_stage == "active" and STUDY_TAG in run.data.tags:
                yield run

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
        for name in [name for name in run.tags if name.startswith(BEST_PREFIX)]:
            if name not in content.tags and not run.deleted:  # of an earlier best trial
                self._client.delete_tag(run.run_id, name)
                del run.tags[name]
        return done

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
            lambda: self._client.log_text(run.run_id, space, SPACE_FILE),
        )
        if best_files:
            self._upload(
                run,
                BEST_FILES_TAG,
                _digest((file.name, file.read_bytes()) for file in best_files),
                lambda: [self._client.log_artifact(run.run_id, str(f), "best") for f in best_files],
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
                _digest([("importance.json", document.encode())]),
                lambda: self._client.log_text(run.run_id, document, "importance.json"),
            )

    def register(self, study: str, bundle: Path) -> None:
        """Register the winner of a task, found in `study`, as a model."""
        from orchestrator.mlflow_registry import register_winner

        run = self._run((study, ""))
        if not run.deleted:
            name = f"{self._plan.name}.{self._plan.study(study).task}"
            register_winner(self._client, run.run_id, name, bundle)

    def _upload(self, run: _KnownRun, tag: str, digest: str, upload: Callable[[], object]) -> None:
        if run.tags.get(tag) != digest:
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
            tags["mlflow.note.content"] = content.note
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
        points = [p for p in content.points if known.get(p.step) != p.values[content.leading]]
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
        known |= {point.step: point.values[content.leading] for point in points}
        if content.end is not None:
            self._client.set_terminated(run.run_id, content.status, content.end)
            run.known_points = None  # let go; asked for again if ever needed
        elif run.status != content.status:
            self._client.update_run(run.run_id, content.status)
        run.status, run.end = content.status, content.end
        return True

    def _known_points(self, run: _KnownRun, leading: str) -> dict[int, float]:
        if run.known_points is None:
            history = self._client.get_metric_history(run.run_id, leading)
            run.known_points = {metric.step: metric.value for metric in history}
        return run.known_points


def _open_client(uri: str) -> "MlflowClient":
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic"):
            # Their errors reach us as exceptions, and we say what follows from them.
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if uri.startswith("sqlite:///"):
        _create_database(Path(uri.removeprefix("sqlite:///")))
    return MlflowClient(uri)


def _create_database(path: Path) -> None:
    """MLflow's tables, all of them or no file: it cannot go on where it was killed halfway."""
    if path.exists():
        return
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    unfinished = path.with_name(f"{path.name}.part")
    unfinished.unlink(missing_ok=True)
    engine = sqlalchemy.create_engine(f"sqlite:///{unfinished}")
    _initialize_tables(engine)
    engine.dispose()
    commit_point("half mlflow")
    unfinished.replace(path)


def _tracked(run: "Run") -> TrackedRun:
    tags = run.data.tags
    number = tags.get(TRIAL_TAG, "")
    state = tags.get("state", "") if number else "study"
    if number and STATUS.get(state) != run.info.status:
        state = f"{state} with status {run.info.status}"
    return TrackedRun(
        study=tags[STUDY_TAG],
        number=number,
        state=state,
        val_accuracy=run.data.metrics.get("val_accuracy"),
    )


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


def _artifact_location(uri: str, artifacts: Path | None) -> str | None:
    """Where the experiment's files go; None: a server decides."""
    if uri.startswith(("http", "databricks")):
        return None
    if artifacts is None and uri.startswith("sqlite:///"):
        artifacts = Path(uri.removeprefix("sqlite:///")).absolute().parent / ARTIFACTS_FOLDER
    return artifacts.absolute().as_uri() if artifacts else None


def _digest(files: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _reason(error: Exception) -> str:
    text = redacted(f"{type(error).__name__}: {error}").splitlines()[0]
    return text if len(text) <= 300 else text[:300] + "…"
