"""One Ray Tune run over all trials of a sweep, or over all runs of its finalists.

A Searcher hands out what a ledger says is next, a TrialScheduler asks the ledger after every report
whether to go on, and warm actors train. All state is in the record behind the ledger; Tune's own
snapshots are never read.
"""

import logging
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

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

from orchestrator.ledger import WORKER_DEATHS_ALLOWED, Ledger
from orchestrator.slots import Slots
from orchestrator.stopping import StopSignals
from orchestrator.trial import TrialContext
from orchestrator.worker import WarmWorker


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
                tune.with_parameters(WarmWorker, context=context),
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
