"""The runs of the last stage: folds of the finalists, then the seeds of the winners."""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.record.finalists import Finalist, repeat_sentence
from orchestrator.record.finals import FinalRecord
from orchestrator.run.queue import WORKER_DEATHS_ALLOWED, Failed, Finished, Report, Run, rank
from orchestrator.support.durations import duration_text
from orchestrator.support.phases import Phase
from orchestrator.training.facts import EpochRow, FinalFacts, TrialFacts
from orchestrator.training.final_trial import FinalTrial, FoldConfig, FoldTrial

logger = logging.getLogger(__name__)


@dataclass
class _Running:
    study: str
    number: int
    fold: int | None
    seed: int
    run: Run
    repeat: int = 0
    """0: of a fold with the first seeds."""
    curve: list[EpochRow] = field(default_factory=list)


class FinalQueue:
    """Folds of finalists, then seeds of winners; a study goes on while others still compare."""

    num_slots: int | None = None
    """Nobody is asked."""

    def __init__(
        self, plan: SweepPlan, finals: FinalRecord, runs_folder: Path, say: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._finals = finals
        self.runs_folder = runs_folder
        self._say = say
        self.progress = Phase("runs of the last stage", self._num_left_in_record)
        """Runs that ended, of those that there are at most."""
        self._running: dict[str, _Running] = {}
        self._stopped = False
        """Because of the machine; nothing more is handed out."""

    @property
    def num_left(self) -> int:
        """Runs to be handed out if no finalist is stopped."""
        return max(0, self._num_left_in_record - len(self._running))

    @property
    def _num_left_in_record(self) -> int:
        return sum(self._finals.num_left(study.name) for study in self._plan.studies)

    def next_run(self, run_id: str, held: Sequence[str] = ()) -> Run | Literal["finished"] | None:
        if self._stopped:
            return "finished"
        ready = [runs for study in self._plan.studies if (runs := self._ready(study))]
        if ready:
            # The study with most to hand out: all of them advance together.
            best = min(ready, key=lambda runs: (-len(runs), rank(runs[0].run.config.task, held)))
            self._running[run_id] = best[0]
            if best[0].fold is None:
                config = best[0].run.config
                self._finals.final_begun(best[0].study, best[0].seed, config.config)
            return best[0].run
        # A fold that is running may yet decide a winner, whose seeds follow.
        more = any(running.fold is not None for running in self._running.values())
        return None if more else "finished"

    def reported(self, run_id: str, report: Report) -> bool:
        running = self._running[run_id]
        if report.rows and report.rows[0]["epoch"] == 1:
            running.curve.clear()  # a run whose worker died begins again
        running.curve += report.rows
        match report.end:
            case Failed(reason, "machine"):  # it is run again by the next `finalize`
                logger.warning("stopped: %s: %s", running.run.files, reason)
                self._stopped = True
                return True
            case Failed(reason):
                self._failed(running, reason)
            case Finished():
                self._done(running, report.facts)
            case None if running.fold is None or self._state(running) == "running":
                return False
            case None:
                pass  # of a finalist that was stopped meanwhile, nothing is to be waited for
        running.run.checkpoint.unlink(missing_ok=True)
        return True

    def worker_died(self, run_id: str, reason: str) -> None:
        running = self._running[run_id]
        logger.warning("%s: its worker died (%s); it goes again", running.run.files, reason)

    def worker_lost(self, run_id: str, reason: str) -> None:
        running = self._running[run_id]
        if self._state(running) == "running":
            deaths = WORKER_DEATHS_ALLOWED + 1
            self._failed(running, f"its worker died {deaths} times, last: {reason}")

    def forget(self, run_id: str) -> None:
        self._running.pop(run_id, None)

    def _ready(self, study: StudyPlan) -> list[_Running]:
        """Runs of a study that can be handed out now."""
        name = study.name
        busy = [running for running in self._running.values() if running.study == name]
        if not self._finals.num_rounds(name):
            return []
        winner = self._finals.winner(name)
        if winner is None:
            repeat = self._finals.num_repeats(name)
            handed = {(running.number, running.fold, running.repeat) for running in busy}
            return [
                self._fold_run(study, finalist, fold, repeat)
                for finalist, fold in _folds_left(self._finals, name)
                if (finalist.number, fold, repeat) not in handed
            ]
        handed_seeds = {running.seed for running in busy}
        config = self._finals.finalist(name, winner.number).trial.config
        return [
            self._final_run(study, winner.number, config, seed)
            for seed in self._finals.seeds_left(name)
            if seed not in handed_seeds
        ]

    def _fold_run(self, study: StudyPlan, finalist: Finalist, fold: int, repeat: int) -> _Running:
        # Paired: all finalists of a task have the same folds, and on each fold of a repeat the
        # same seed.
        which = f"fold {fold}" + (f"/repeat {repeat}" if repeat else "")
        seed = zlib.crc32(f"{self._plan.seed}/{study.name}/{which}".encode())
        trained = self._plan.trial_config(
            study.name, finalist.number, finalist.trial.config, seed=seed
        )
        config = FoldConfig(
            **vars(trained),
            fold=fold,
            num_folds=self._finals.protocol(study.name).num_folds,
            fold_seed=self._plan.seed,
        )
        folder = files_of_round(self.runs_folder, study.name, self._finals.num_rounds(study.name))
        again = f"-repeat-{repeat}" if repeat else ""
        files = folder / f"trial-{finalist.number}-fold-{fold}{again}"
        run = Run(FoldTrial, config, str(files))
        return _Running(study.name, finalist.number, fold, seed, run, repeat)

    def _final_run(
        self, study: StudyPlan, number: int, config: Mapping[str, Any], seed: int
    ) -> _Running:
        trial = self._plan.trial_config(study.name, number, config, seed=seed)
        folder = files_of_round(self.runs_folder, study.name, self._finals.num_rounds(study.name))
        run = Run(FinalTrial, trial, str(folder / f"seed-{seed}"))
        return _Running(study.name, number, None, seed, run)

    def _state(self, running: _Running) -> str:
        if running.fold is not None:
            return self._finals.finalist(running.study, running.number).state
        runs = self._finals.final_runs(running.study)
        return next(run.state for run in runs if run.seed == running.seed)

    def _done(self, running: _Running, facts: TrialFacts) -> None:
        study, number = running.study, running.number
        unit = self._plan.objective(study).unit
        ended = {"curve": running.curve, "facts": facts.stored()}
        if running.fold is None:
            self._finals.final_done(study, running.seed, **ended)
            assert isinstance(facts, FinalFacts) and facts.test_accuracy is not None
            accuracy = facts.test_accuracy
            self._tell(f"{study} seed {running.seed}: test {100 * accuracy:.1f} {unit}")
            return
        before = self._finals.num_repeats(study)
        self._finals.fold_done(study, number, running.fold, **ended, repeat=running.repeat)
        accuracy = running.curve[-1]["val_accuracy"]
        finalist = self._finals.finalist(study, number)
        stopped = ", stopped: clearly worse than the best" if finalist.state == "pruned" else ""
        num_folds = self._finals.protocol(study).num_folds
        self._tell(
            f"{study} #{number} fold {running.fold + 1} of {num_folds}{_seed_text(running)}: "
            f"{100 * accuracy:.1f} {unit}{stopped}"
        )
        self._say_what_follows(study, before)

    def _failed(self, running: _Running, reason: str) -> None:
        study, number = running.study, running.number
        if running.fold is None:
            self._finals.final_failed(study, running.seed, reason, curve=running.curve)
            self._tell(f"{study} seed {running.seed}: failed: {reason}")
            return
        where = f"fold {running.fold + 1}{_seed_text(running)}"
        before = self._finals.num_repeats(study)
        self._finals.finalist_failed(study, number, f"{where}: {reason}", running.repeat)
        self._tell(f"{study} #{number} {where}: failed: {reason}")
        self._say_what_follows(study, before)

    def _tell(self, line: str) -> None:
        """How a run ended, with how many have ended of how many."""
        self.progress.advance()
        # Fewer where a finalist was stopped, whose other folds are not run.
        self.progress.total = self.progress.done + self._num_left_in_record
        left = self.progress.seconds_left()
        about = f", about {duration_text(left)} left" if left else ""
        self._say(f"[{self.progress.done}/{self.progress.total}] {line}{about}")

    def _say_what_follows(self, study: str, repeats_before: int) -> None:
        """Who won; or which finalists are trained again, and why."""
        reasons = self._finals.reasons(study)
        if len(reasons) > repeats_before:
            self._say(f"{study}: {repeat_sentence(reasons)}")
        winner = self._finals.winner(study)
        if winner is not None:
            self._say(f"{study}: {winner.why}")


def _seed_text(running: _Running) -> str:
    """Behind a fold: with which seed it is trained again."""
    return f" with seed {running.repeat + 1}" if running.repeat else ""


def files_of_round(runs_folder: Path, study: str, round: int) -> Path:
    """Where the runs of a study keep their checkpoints and tuned weights."""
    return runs_folder / study if round == 1 else runs_folder / study / f"round-{round}"


def _folds_left(finals: FinalRecord, study: str) -> list[tuple[Finalist, int]]:
    """All folds of the best of the search, whom the others are measured against; then by fold.

    In a repeat by fold alone: none is stopped.
    """
    repeat = finals.num_repeats(study)
    left = [
        (finalist, fold, rank)
        for rank, finalist in enumerate(finals.finalists(study))
        if finalist.state == "running"
        for fold in range(finals.protocol(study).num_folds)
        if fold not in finalist.done(repeat)
    ]
    left.sort(key=lambda item: (not repeat and item[2] > 0, item[1], item[2]))
    return [(finalist, fold) for finalist, fold, _ in left]
