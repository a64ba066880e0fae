"""One Ray Tune run over all trials of a sweep, or over all runs of its finalists.

A Searcher hands out what a ledger says is next, a TrialScheduler asks the ledger after every report
whether to go on, and warm actors train. All state is in the record behind the ledger; Tune's own
snapshots are never read.
"""

import faulthandler
import logging
import math
import os
import re
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

# Before Ray is imported: its own loggers write files that nobody reads, and phone home.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # we have our own
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.config import TrialConfig
from orchestrator.record import EpochRow, Record, TrialRecord
from orchestrator.residents import Residents
from orchestrator.slots import Slots
from orchestrator.stopping import StopSignals
from orchestrator.trial import Trial, TrialContext, TrialFailed

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""A worker reports after the first epoch that ends later than this, or at a rung."""

WORKER_DEATHS_ALLOWED = 2
"""A trial whose worker died is run again this often before it counts as failed."""

SAME_FAILURES = 5
"""After so many unexpected failures in a row, all for one reason, it is not the trials' fault."""


class Observer(Protocol):
    """Hears of what happened after it was recorded; must neither block nor raise."""

    def trial_started(self, trial: TrialRecord) -> None: ...
    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...


@dataclass(frozen=True)
class Run:
    """What a worker is given to train."""

    kind: type[Trial]
    config: TrialConfig
    files: str
    """Its checkpoint and its tuned weights are this path with a suffix of their own."""
    memory_share: float = 1.0
    """Of what a worker may keep in memory; halved whenever the run died for want of it."""

    @property
    def checkpoint(self) -> Path:
        return Path(f"{self.files}.checkpoint")

    @property
    def tensors(self) -> Path:
        return Path(f"{self.files}.safetensors")


class Ledger(Protocol):
    """What is to be run, and what came of it."""

    @property
    def num_left(self) -> int:
        """Runs that may still be handed out: all of them, or more."""
        ...

    def next_run(self, tune_id: str) -> Run | Literal["finished"] | None:
        """What to run next; None: nothing before another run ends; "finished": nothing any more."""
        ...

    def reported(self, tune_id: str, result: dict[str, Any]) -> bool:
        """Take in what a worker said (see `_WarmWorker.step`); whether the run ends here."""
        ...

    def worker_died(self, tune_id: str, reason: str) -> None:
        """The worker of the run died; it is run again if that did not happen too often."""
        ...

    def worker_lost(self, tune_id: str, reason: str) -> None:
        """Tune gave the run up: its worker died too often."""
        ...

    def forget(self, tune_id: str) -> None:
        """The run has left the schedule."""
        ...


def run_schedule(
    ledger: Ledger,
    context: TrialContext,
    slots: Slots,
    *,
    max_seconds: float | None = None,
) -> None:
    """Run what is left in the ledger; returns when done, out of time, or stopped by a signal.

    Runs that were not finished by then stay running in the record, to be run again.
    """
    if ledger.num_left == 0:
        return
    deaths: dict[str, str] = {}  # why the worker of a run died last
    with (
        tempfile.TemporaryDirectory(prefix="orchestrator-tune-") as scratch,
        StopSignals() as signals,
    ):
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_WarmWorker, context=context),
                {"cpu": slots.cpu_threads, "gpu": slots.gpus_per_trial},
            ),
            tune_config=tune.TuneConfig(
                search_alg=_LedgerSearcher(ledger, deaths),
                scheduler=_LedgerScheduler(ledger, deaths),
                num_samples=ledger.num_left,
                max_concurrent_trials=slots.num_slots,
                reuse_actors=True,
                time_budget_s=max_seconds,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                stop=_StopOnSignal(signals),
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS_ALLOWED),
                # Our trials write their own checkpoints; Tune's would be a second, lossy truth.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()


def start_ray(slots: Slots, address: str | None) -> None:
    """Connect to the cluster at `address`, or start Ray on this machine for these slots."""
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    for name in ("ray.tune", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if address:
        ray.init(address=address, **quiet)
        return
    ray.init(
        num_cpus=slots.num_slots * slots.cpu_threads,
        num_gpus=math.ceil(slots.num_slots * slots.gpus_per_trial),
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        **quiet,
    )


def cluster_size(address: str) -> tuple[float, float]:
    """CPUs and GPUs of a running cluster."""
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    total = ray.cluster_resources()
    ray.shutdown()
    return total.get("CPU", 0.0), total.get("GPU", 0.0)


@dataclass
class _Running:
    config: TrialConfig
    curve: list[EpochRow] = field(default_factory=list)
    ended: bool = False
    reported_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class _Suspect:
    """A trial that failed, perhaps only because of where it ran."""

    running: _Running
    reason: str
    facts: Mapping[str, Any]


class StudyLedger:
    """The trials of a sweep, all studies in turn, each stopped by its own Optuna pruner."""

    def __init__(self, record: Record, trials_folder: Path, observers: Sequence[Observer]) -> None:
        self.record = record
        self._trials_folder = trials_folder
        self._observers = observers
        self._running: dict[str, _Running] = {}
        self._interrupted = deque(record.interrupted())
        self._remove_old_checkpoints()
        self._suspects: list[_Suspect] = []
        self.stop_reason: str | None = None
        """Why nothing more is handed out, if so."""
        self._to_ask = {
            study.name: study.num_trials - record.num_asked(study.name)
            for study in record.plan.studies
        }

    @property
    def num_left(self) -> int:
        return len(self._interrupted) + sum(max(0, n) for n in self._to_ask.values())

    def next_run(self, tune_id: str) -> Run | Literal["finished"]:
        config = self._choose()
        if config is None:
            return "finished"
        self._running[tune_id] = _Running(config)
        self._tell("trial_started", self.record.trial(config.study, config.number))
        folder = self._trials_folder / config.study
        return Run(Trial, config, str(folder / str(config.number)))

    def _choose(self) -> TrialConfig | None:
        if self.stop_reason is not None:
            return None
        if self._interrupted:
            return self._interrupted.popleft()
        # The study with most left to do: all of them advance together.
        study = max(self._to_ask, key=lambda name: self._to_ask[name], default=None)
        if study is None or self._to_ask[study] <= 0:
            return None
        self._to_ask[study] -= 1
        return self.record.ask(study)

    def reported(self, tune_id: str, result: dict[str, Any]) -> bool:
        running = self._running[tune_id]
        study, number = running.config.study, running.config.number
        rows: list[EpochRow] = result["rows"]
        if rows and rows[0]["epoch"] == 1:
            running.curve.clear()  # a trial whose worker died begins again
        stop_after = self.record.report(study, number, rows, finished=result["finished"])
        if stop_after is not None:
            rows = [row for row in rows if row["epoch"] <= stop_after]
        running.curve += rows
        self._tell("trial_epochs", study, number, rows)
        facts = {
            key.removeprefix("facts/"): value
            for key, value in result.items()
            if key.startswith("facts/")
        }
        running.reported_at = time.monotonic()
        end = {"curve": running.curve, "facts": facts}
        if stop_after is not None:
            self.record.prune(study, number, **end)
        elif result["unexpected"]:
            self._suspect(running, result["failure"], facts)
            return True
        elif result["failure"]:
            self.record.fail(study, number, reason=result["failure"], **end)
        elif result["finished"]:
            self.record.complete(study, number, **end)
            self._keep_best(study)
        else:
            return False
        self._ended(running)
        self._settle_suspects()  # where one trial can end, the others' failures are their own
        return True

    def worker_died(self, tune_id: str, reason: str) -> None:
        running = self._running[tune_id]
        silent = time.monotonic() - running.reported_at
        running.reported_at = time.monotonic()
        logger.warning(
            "%s #%d: its worker died %.0f s after its last report (%s); "
            "it goes on from its last checkpoint",
            running.config.study,
            running.config.number,
            silent,
            reason,
        )

    def worker_lost(self, tune_id: str, reason: str) -> None:
        running = self._running[tune_id]
        if not running.ended:
            deaths = WORKER_DEATHS_ALLOWED + 1
            self._suspect(running, f"its worker died {deaths} times, last: {reason}", {})

    def forget(self, tune_id: str) -> None:
        self._running.pop(tune_id, None)

    def _remove_old_checkpoints(self) -> None:
        """Of trials that ended just before their driver did."""
        kept = {(config.study, str(config.number)) for config in self._interrupted}
        for study in self.record.plan.studies:
            for path in (self._trials_folder / study.name).glob("*.checkpoint"):
                if (study.name, path.stem) not in kept:
                    path.unlink()

    def _suspect(self, running: _Running, reason: str, facts: Mapping[str, Any]) -> None:
        """Hold back a failure that may be the machine's: until we know, the trial is not failed."""
        if self._suspects and _same(reason) != _same(self._suspects[-1].reason):
            self._settle_suspects()
        running.ended = True
        self._suspects.append(_Suspect(running=running, reason=reason, facts=facts))
        if len(self._suspects) >= SAME_FAILURES and self.stop_reason is None:
            self.stop_reason = (
                f"{len(self._suspects)} trials in a row failed for the same reason, so that the "
                f"fault is not theirs: {reason}"
            )
        elif self.num_left == 0 and all(run.ended for run in self._running.values()):
            self._settle_suspects()

    def _settle_suspects(self) -> None:
        if self.stop_reason is not None:
            return  # they stay running in the record, to be run again
        suspects, self._suspects = self._suspects, []
        for suspect in suspects:
            running = suspect.running
            self.record.fail(
                running.config.study,
                running.config.number,
                reason=suspect.reason,
                curve=running.curve,
                facts=suspect.facts,
            )
            self._ended(running)

    def _ended(self, running: _Running) -> None:
        running.ended = True
        config = running.config
        (self._trials_folder / config.study / f"{config.number}.checkpoint").unlink(missing_ok=True)
        self._tell("trial_ended", self.record.trial(running.config.study, running.config.number))

    def _keep_best(self, study: str) -> None:
        """Of the tuned weights of a study only those of its best trial are kept."""
        best = self.record.best(study)
        running = {r.config.number for r in self._running.values() if r.config.study == study}
        for path in (self._trials_folder / study).glob("*.safetensors"):
            number = int(path.stem)
            if (best is None or number != best.number) and number not in running:
                path.unlink()

    def _tell(self, event: str, *arguments: Any) -> None:
        for observer in self._observers:
            getattr(observer, event)(*arguments)


class _Door:
    """Tune pickles searcher and scheduler into snapshots that we never read: not the ledger."""

    ledger: Ledger

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _LedgerSearcher(_Door, Searcher):
    def __init__(self, ledger: Ledger, deaths: Mapping[str, str]) -> None:
        super().__init__()
        self.ledger = ledger
        self.deaths = deaths

    def suggest(self, trial_id: str) -> Any:
        run = self.ledger.next_run(trial_id)
        if run == "finished":
            return Searcher.FINISHED
        # In a list, since Tune would take the values of a plain dictionary for a space to search.
        return None if run is None else {"run": [run]}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:
            self.ledger.worker_lost(trial_id, self.deaths.get(trial_id, "it did not start"))
        self.ledger.forget(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the record is what a sweep resumes from."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a sweep is resumed from its record, not from a Tune snapshot")


class _LedgerScheduler(_Door, FIFOScheduler):
    def __init__(self, ledger: Ledger, deaths: dict[str, str]) -> None:
        super().__init__()
        self.ledger = ledger
        self.deaths = deaths

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        ends = self.ledger.reported(trial.trial_id, result)
        return TrialScheduler.STOP if ends else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Heard after every death of a worker, before the run goes again."""
        reason = _cause(Path(trial.error_file).read_text(errors="replace"))
        self.deaths[trial.trial_id] = reason
        self.ledger.worker_died(trial.trial_id, reason)
        if reason == OUT_OF_MEMORY:
            (run,) = trial.config["run"]
            trial.config["run"] = [replace(run, memory_share=run.memory_share / 2)]


class _StopOnSignal(tune.Stopper):
    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._signals.name is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


OUT_OF_MEMORY = "its machine ran out of memory"


def _cause(error: str) -> str:
    """Why an actor died, from the last of the errors that Tune collected."""
    last = error.rpartition("Failure #")[2]
    if "low on memory" in last or "OutOfMemory" in last:
        return OUT_OF_MEMORY
    if re.search(r"node (has|was|is) (died|dead|terminated|preempted)|node .*died", last):
        return "its machine was lost"
    return "its process was killed or crashed"


def _same(reason: str) -> str:
    """What reasons have in common that differ by numbers."""
    return re.sub(r"\d+", "#", reason)


class _WarmWorker(tune.Trainable):
    """An actor that keeps backbone, images and frozen features from trial to trial."""

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride]  # with_parameters adds context
        self, config: dict[str, Any], context: TrialContext
    ) -> None:
        self._context = context
        self._max_bytes = resident_bytes(context.device)
        self._residents = Residents(self._max_bytes)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        (self._run,) = config["run"]
        run: Run = self._run
        self._residents.max_bytes = int(run.memory_share * self._max_bytes)
        self._trial = run.kind(
            run.config, self._context, self._residents, checkpoint=run.checkpoint
        )
        self._epochs = self._trial.epochs()

    def step(self) -> dict[str, Any]:
        """Train until it is time to report."""
        rows: list[EpochRow] = []
        failure, unexpected, finished = "", False, False
        report_at = time.monotonic() + REPORT_SECONDS
        self._expect_progress()
        try:
            for row in self._epochs:
                rows.append(row)
                self._expect_progress()
                # After the last epoch nothing is left to prune: go on to the end.
                is_last = row["epoch"] == self._trial.num_epochs
                if not is_last and (
                    self._context.pruner.asked_at(int(row["epoch"])) or time.monotonic() > report_at
                ):
                    break
            else:
                self._trial.save(self._run.tensors)
                finished = True
        except TrialFailed as error:
            failure = str(error)
        except Exception as error:
            # Whatever is wrong with one configuration must not take worker or sweep along.
            at = traceback.extract_tb(error.__traceback__)[-1]
            failure = f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"
            unexpected = True
            logger.exception("trial failed")
        finally:
            faulthandler.cancel_dump_traceback_later()
        return {
            "rows": rows,
            "finished": finished,
            "failure": failure,
            "unexpected": unexpected,
            "facts": self._trial.facts(),
        }

    def _expect_progress(self) -> None:
        """Without an epoch in time this process ends, whatever it hangs in, and is replaced."""
        seconds = self._context.silent_seconds
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)

    def cleanup(self) -> None:
        self._epochs.close()


def resident_bytes(device: str) -> int:
    """Half of the free memory of the device, or of this worker's share of the machine's."""
    if device != "cpu":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return free // 2
    import psutil

    share = psutil.virtual_memory().available // (2 * max(1, len(os.sched_getaffinity(0))))
    return min(share, 8 * 2**30)
