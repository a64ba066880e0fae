"""What the orchestration of a trial costs, beside stock Ray Tune, Optuna, ASHA and MLflow.

    python benchmarks/control.py --trials 100 1000 --slots 2
    python benchmarks/control.py --trials 1024 --slots 64 --seconds 16 --stock-trials 0
    python benchmarks/control.py --storage postgresql+psycopg://user@host/studies \\
        --tracking http://127.0.0.1:5000

Everything is real (Tune, queue, samplers, pruner, storage, tracking) but the training: a trial
makes up its epochs, and sleeps where `--seconds` says so. Slots are Ray's fake CPUs, whatever the
machine has. The trials are spread over 95 studies, 19 tasks by 5 search spaces; the stock, which
knows one study per run, searches one of these spaces. Every case is a process of its own.

A report is an epoch told to storage, pruner and MLflow. The stock sends each alone; our workers
send those between two rungs, or of one second, in one message. On a busy machine read the columns
per second of the driver's CPU time, which others cannot stretch.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.plan.plan import SweepPlan

REDUCTION_FACTOR = 4
FIRST_RUNG_EPOCHS = 15
SPACES = ("linear", "vpt_shallow", "vpt_deep", "spt_deep", "gatevpt")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table."""

    system: str
    """ours or stock."""
    trials: int
    before: int
    """Trials that stand in the storage already, as if the sweep were resumed."""
    slots: int
    epochs: int
    seconds: float
    """A whole trial sleeps so long; one that is stopped, its share."""
    storage: str | None
    tracking: str | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a case took; times in seconds."""

    case: Case
    num_reports: int
    num_pruned: int
    wall: float
    """From the start of the first trial to the end of the last."""
    driver_cpu: float
    """Of all threads of the driver meanwhile."""
    turnaround: float
    """Median, from the end of a trial in a worker to the start of the next in the same."""
    busy: float
    """Share of the time of all slots that trials took, while any was left to be handed out."""
    busy_begun: float
    """The same, of each slot from its first trial on: without the start of its process."""
    peak_memory_mib: float
    """Of the driver."""
    drain: float
    """From the end of the last trial until MLflow shows every trial; 0 for the stock, which has
    waited for it all along."""

    @property
    def reports_per_second(self) -> float:
        return self.num_reports / self.wall

    @property
    def reports_per_cpu_second(self) -> float:
        """What the driver can take if it has a core to itself."""
        return self.num_reports / self.driver_cpu


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    if options.case:
        row = _run(Case(**json.loads(options.case)))
        options.json.write_text(json.dumps(asdict(row)))
        return [row]
    common = {
        "epochs": options.epochs,
        "seconds": options.seconds,
        "storage": options.storage,
        "tracking": options.tracking,
    }
    cases = [
        Case(system="ours", trials=trials, before=options.before, slots=slots, **common)
        for slots in options.slots
        for trials in options.trials
    ]
    if options.stock_trials:
        fewest = min(options.slots)
        stock = Case(system="stock", trials=options.stock_trials, before=0, slots=fewest, **common)
        cases.insert(0, stock)
    print(
        "| system | trials | slots | reports/s | x stock | reports per CPU s | x stock "
        "| ms a trial | driver CPU ms a trial | turnaround s | busy % | once begun % | driver MiB "
        "| MLflow behind s |"
    )
    print("|---" * 14 + "|")
    rows: list[Row] = []
    for case in cases:
        rows.append(_in_its_own_process(case))
        stock = next((row for row in rows if row.case.system == "stock"), None)
        print(_text(rows[-1], stock), flush=True)
    if options.json:
        document = {"arguments": sys.argv[1:], "cores": os.cpu_count(), "date": time.ctime()}
        document["rows"] = [
            {
                **asdict(row),
                "reports_per_second": row.reports_per_second,
                "reports_per_cpu_second": row.reports_per_cpu_second,
            }
            for row in rows
        ]
        options.json.write_text(json.dumps(document, indent=2))
    return rows


def _in_its_own_process(case: Case) -> Row:
    with tempfile.TemporaryDirectory(prefix="orchestrator-control-") as folder:
        result = Path(folder) / "row.json"
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--json", result]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        document = json.loads(result.read_text())
    return Row(**{**document, "case": case})


def _run(case: Case) -> Row:
    with tempfile.TemporaryDirectory(prefix="orchestrator-control-") as folder:
        return (_run_ours if case.system == "ours" else _run_stock)(case, Path(folder))


def _run_ours(case: Case, folder: Path) -> Row:
    from orchestrator.cluster.slots import Slots
    from orchestrator.record.record import open_record
    from orchestrator.run.progress import Progress
    from orchestrator.run.queue import Finished, Report, Run
    from orchestrator.run.ray.engine import RayEngine
    from orchestrator.run.ray.start import start_ray
    from orchestrator.run.search_queue import SearchQueue
    from orchestrator.tracking.reconcile import reconcile, tracked_runs
    from orchestrator.tracking.tracker import Tracker
    from orchestrator.tracking.trackers import tracking_uri

    class EmptyQueue(SearchQueue):
        """Exchanges with a worker only what needs no code of ours to be read there."""

        def next_run(self, run_id: str, held: Sequence[str] = ()) -> Any:
            run = super().next_run(run_id, held)
            if not isinstance(run, Run):
                return run
            return SimpleNamespace(
                config=SimpleNamespace(task=run.config.task, seed=run.config.seed)
            )

        def reported(self, run_id: str, report: Any) -> bool:
            rows, told, is_last = report
            facts: Any = SimpleNamespace(stored=lambda: told)
            end = Finished() if is_last else None
            return super().reported(run_id, Report(rows=rows, facts=facts, end=end))

    plan = made_plan(case)
    if case.before:
        # In a process of its own, so that its memory is not the driver's.
        filling = multiprocessing.get_context("fork").Process(
            target=fill, args=(plan, case, folder)
        )
        filling.start()
        filling.join()
        assert filling.exitcode == 0
    record = open_record(plan, folder, case.storage)
    uri = case.tracking or tracking_uri(folder)
    progress, tracker = Progress(plan, record), Tracker(plan, uri)
    queue = EmptyQueue(record, folder / "trials", [progress, tracker])
    slots = Slots(num_slots=case.slots, cpu_threads=1, gpus_per_trial=0)
    start_ray(slots, None)
    engine = RayEngine(slots, worker=_worker_class())
    reported = [e for e in range(1, case.epochs + 1) if plan.pruner.asked_at(e)]
    cpu = time.process_time()
    engine.run(queue, _context(case, reported), sweep=plan.name)
    ended, cpu = time.time(), time.process_time() - cpu
    tracker.close(timeout_seconds=600)
    if not case.before:  # else it would write them all
        reconcile(plan, record, uri, best_files=lambda study: [])
    drain = time.time() - ended
    memory = _peak_memory_mib()  # before we look at all that was recorded, which no sweep does
    assert progress.finished == case.before + case.trials
    trials = [trial for trial in record.all_trials() if "began" in trial.facts]
    shown = {(run.study, run.number): run.state for run in tracked_runs(plan, uri)}
    assert all(shown[trial.study, str(trial.number)] == trial.state for trial in trials)
    assert len(trials) == case.trials
    return Row(
        case=case,
        num_reports=sum(len(trial.curve) for trial in trials),
        num_pruned=sum(trial.state == "pruned" for trial in trials),
        driver_cpu=cpu,
        drain=drain,
        peak_memory_mib=memory,
        **_measured(case, [trial.facts for trial in trials]),
    )


def _run_stock(case: Case, folder: Path) -> Row:
    import optuna
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from orchestrator.plan.space import load_space

    space = load_space(SPACES[0])
    last: dict[str, dict[str, float]] = {}

    class Last(tune.Callback):
        def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:
            last[trial.trial_id] = result

    search = OptunaSearch(
        {dimension.name: dimension.distribution for dimension in space.dimensions},
        metric="val_accuracy",
        mode="max",
        study_name=f"stock {time.time()}",
        storage=optuna.storages.RDBStorage(case.storage or f"sqlite:///{folder / 'studies.db'}"),
    )
    pruner = ASHAScheduler(
        time_attr="epoch",
        metric="val_accuracy",
        mode="max",
        max_t=case.epochs,
        grace_period=min(FIRST_RUNG_EPOCHS, case.epochs),
        reduction_factor=REDUCTION_FACTOR,
    )
    logger = MLflowLoggerCallback(
        tracking_uri=case.tracking or f"sqlite:///{folder / 'mlflow.db'}", experiment_name="stock"
    )
    ray.init(num_cpus=case.slots, include_dashboard=False, log_to_driver=False)
    every_epoch = range(1, case.epochs + 1)
    tuner = tune.Tuner(
        tune.with_parameters(_worker_class(), context=_context(case, every_epoch)),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=pruner,
            num_samples=case.trials,
            max_concurrent_trials=case.slots,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder / "tune"),
            verbose=0,
            callbacks=[Last(), logger],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    cpu = time.process_time()
    tuner.fit()
    cpu = time.process_time() - cpu
    assert len(last) == case.trials
    return Row(
        case=case,
        num_reports=sum(int(result["epoch"]) for result in last.values()),
        num_pruned=sum(result["epoch"] < case.epochs for result in last.values()),
        driver_cpu=cpu,
        drain=0.0,
        peak_memory_mib=_peak_memory_mib(),
        **_measured(case, list(last.values())),
    )


def _worker_class() -> type[Any]:
    """A trainable that trains nothing; for Ray's workers, hence with nothing of ours in it."""
    from ray import tune

    class EmptyWorker(tune.Trainable):
        def setup(self, config: dict[str, Any], context: Any) -> None:
            self._context = context
            self._ended = None
            self._begin(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._begin(new_config)
            return True

        def _begin(self, config: dict[str, Any]) -> None:
            self._began = time.time()
            self._idle = self._ended and self._began - self._ended
            self._quality = zlib.crc32(repr(config).encode()) / 2**32
            self._epoch = 0

        def step(self) -> dict[str, Any]:
            context = self._context
            report_at = time.monotonic() + 1.0
            rows = []
            while True:
                time.sleep(context.epoch_seconds)
                self._epoch += 1
                rows.append(self.row(self._epoch, self._quality))
                is_last = self._epoch == context.epochs
                is_time = self._epoch in context.reported or time.monotonic() > report_at
                if is_last or is_time:
                    break
            self._ended = time.time()
            facts = {"began": self._began, "ended": self._ended, "idle": self._idle}
            if context.system == "stock":
                return {**rows[-1], **facts}
            return {"report": [rows, facts, is_last]}

        @staticmethod
        def row(epoch: int, quality: float) -> dict[str, float]:
            accuracy = round(200 * quality * (1 - 0.95**epoch)) / 200
            losses = {"train_loss": 2.3 / epoch, "val_loss": 2.4 / epoch}
            seconds = {"train_seconds": 0.1, "eval_seconds": 0.05}
            return {"epoch": epoch, "scaled_lr": 0.1, "val_accuracy": accuracy, **losses, **seconds}

    return EmptyWorker


def _context(case: Case, reported: Iterable[int]) -> Any:
    """What all workers are given."""
    return SimpleNamespace(
        system=case.system,
        epochs=case.epochs,
        epoch_seconds=case.seconds / case.epochs,
        reported=set(reported),
        silent_seconds=600.0,
    )


def _peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measured(case: Case, facts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the workers' clocks say."""
    first, last = min(f["began"] for f in facts), max(f["ended"] for f in facts)
    handed_out = max(f["began"] for f in facts)
    taken = sum(min(f["ended"], handed_out) - f["began"] for f in facts)
    idle = [f["idle"] for f in facts if f["idle"] is not None]
    begun = sum(handed_out - f["began"] for f in facts if f["idle"] is None)
    return {
        "wall": last - first,
        "turnaround": statistics.median(idle) if idle else 0.0,
        "busy": taken / (case.slots * (handed_out - first)) if handed_out > first else 1.0,
        "busy_begun": taken / begun if begun > 0 else 1.0,
    }


def made_plan(case: Case) -> "SweepPlan":
    """The suite of VTAB-1k with five spaces, the trials spread evenly."""
    from orchestrator.data.vtab import OFFICIAL_TASKS
    from orchestrator.plan.plan import StudyPlan, SweepPlan, TaskPlan
    from orchestrator.plan.pruners.successive_halving import SuccessiveHalving
    from orchestrator.plan.space import load_space
    from orchestrator.training.backbone import BackbonePlan

    tasks = [
        TaskPlan(
            name=name,
            group=task.group,
            num_classes=task.num_classes,
            num_train=800,
            num_val=200,
            root="",
            fingerprint="none",
        )
        for name, task in OFFICIAL_TASKS.items()
    ]
    spaces = {name: load_space(name).with_fixed({"epochs": case.epochs}) for name in SPACES}
    pairs = [(task.name, space) for task in tasks for space in SPACES]
    shares = _shares(case.before + case.trials, len(pairs))
    return SweepPlan(
        name=f"control-{time.time_ns()}",
        created=datetime.now(UTC).isoformat(),
        suite="vtab",
        data_root=None,
        tasks=tuple(tasks),
        backbone=BackbonePlan(
            name="none",
            weights=None,
            weights_sha256="none",
            image_size=224,
            num_parameters=0,
            resize="squash",
            interpolation="bicubic",
            crop_fraction=1.0,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        spaces={name: space.document for name, space in spaces.items()},
        studies=tuple(
            StudyPlan(task=task, space=space, num_trials=share)
            for (task, space), share in zip(pairs, shares, strict=True)
            if share
        ),
        seed=0,
        sampler="tpe",
        pruner=SuccessiveHalving(
            reduction_factor=REDUCTION_FACTOR,
            first_rung_epochs=min(FIRST_RUNG_EPOCHS, case.epochs),
        ),
        versions={},
    )


def _shares(trials: int, studies: int) -> list[int]:
    each, more = divmod(trials, studies)
    return [each + (index < more) for index in range(studies)]


def fill(plan: "SweepPlan", case: Case, folder: Path) -> None:
    """Write trials that have ended, as a sweep would have left them, into an empty SQLite file."""
    import optuna
    import sqlalchemy
    from optuna.distributions import distribution_to_json
    from optuna.storages._rdb import models

    from orchestrator.record.columns import as_columns
    from orchestrator.record.database import default_storage, make_engine
    from orchestrator.record.record import open_record

    record = open_record(plan, folder, case.storage)
    random = optuna.samplers.RandomSampler(seed=0)
    drawn = {space: optuna.create_study(sampler=random) for space in plan.spaces}
    rows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    worker, ids, now = _worker_class(), itertools.count(1), datetime.now(UTC)
    now = now.replace(tzinfo=None)  # as Optuna writes times into its tables
    for study, run in zip(plan.studies, _shares(case.trials, len(plan.studies)), strict=True):
        for number in range(study.num_trials - run):
            trial_id, trial = next(ids), drawn[study.space].ask()
            plan.parsed_spaces[study.space].draw(trial)
            quality = (number * 37 % 101) / 101
            epochs = FIRST_RUNG_EPOCHS if number % REDUCTION_FACTOR else case.epochs
            curve = [worker.row(epoch, quality) for epoch in range(1, epochs + 1)]
            state = optuna.trial.TrialState.PRUNED if epochs < case.epochs else None
            rows[models.TrialModel].append(
                {
                    "trial_id": trial_id,
                    "number": number,
                    "study_id": record.optuna_study(study.name)._study_id,
                    "state": state or optuna.trial.TrialState.COMPLETE,
                    "datetime_start": now,
                    "datetime_complete": now,
                }
            )
            if state is None:
                last = {"objective": 0, "value": curve[-1]["val_accuracy"], "value_type": "FINITE"}
                rows[models.TrialValueModel].append({"trial_id": trial_id, **last})
            for name, distribution in trial.distributions.items():
                rows[models.TrialParamModel].append(
                    {
                        "trial_id": trial_id,
                        "param_name": name,
                        "param_value": distribution.to_internal_repr(trial.params[name]),
                        "distribution_json": distribution_to_json(distribution),
                    }
                )
            for row in curve:
                value = {"intermediate_value": row["val_accuracy"]}
                finite = {"intermediate_value_type": "FINITE", "step": row["epoch"]}
                rows[models.TrialIntermediateValueModel].append(
                    {"trial_id": trial_id, **value, **finite}
                )
            for key, told in (("curve", as_columns(curve)), ("facts", {}), ("seed", number)):
                rows[models.TrialUserAttributeModel].append(
                    {"trial_id": trial_id, "key": key, "value_json": json.dumps(told)}
                )
            rung = {"key": "completed_rung_0", "value_json": str(curve[14]["val_accuracy"])}
            rows[models.TrialSystemAttributeModel].append({"trial_id": trial_id, **rung})
    engine = make_engine(case.storage or default_storage(folder))
    with engine.begin() as connection:
        for model, values in rows.items():
            connection.execute(sqlalchemy.insert(model.__table__), values)


def _text(row: Row, stock: Row | None) -> str:
    case = row.case
    wall = row.reports_per_second / stock.reports_per_second if stock else math.nan
    cpu = row.reports_per_cpu_second / stock.reports_per_cpu_second if stock else math.nan
    return (
        f"| {case.system} | {case.trials}{f' after {case.before}' if case.before else ''}"
        f" | {case.slots} | {row.reports_per_second:.1f}"
        f" | {wall:.1f} | {row.reports_per_cpu_second:.1f} | {cpu:.1f}"
        f" | {1000 * row.wall / case.trials:.0f}"
        f" | {1000 * row.driver_cpu / case.trials:.0f} | {row.turnaround:.2f}"
        f" | {100 * row.busy:.1f} | {100 * row.busy_begun:.1f}"
        f" | {row.peak_memory_mib:.0f} | {row.drain:.0f} |"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--before", type=int, default=0, help="trials that ended before, in SQLite")
    parser.add_argument("--slots", type=int, nargs="+", default=[2])
    parser.add_argument("--stock-trials", type=int, default=12, help="0: without the stock")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.0, help="that a whole trial sleeps")
    parser.add_argument("--storage", help="a database for Optuna instead of a SQLite file")
    parser.add_argument("--tracking", help="MLflow's address instead of a SQLite file")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
