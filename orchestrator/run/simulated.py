"""A search without training: every trial is answered from a learning curve that was recorded.

The queue, the sampler, the pruner and the record are the product's own; slots and the clock are
imitated. So what a search would have found, and when, is known in a moment.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.plan.allocation import GAIN, ceiling
from orchestrator.plan.nearness import distance
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.samplers import SeededByName
from orchestrator.plan.start_points import StartingAt
from orchestrator.record.curves import Curves, RecordedTrial
from orchestrator.record.database import IN_MEMORY
from orchestrator.record.decided import Proposal, drawn_by
from orchestrator.record.record import Record, TrialRecord
from orchestrator.record.steering import Steering, most_trials
from orchestrator.run.queue import Failed, Finished, Report
from orchestrator.run.search_queue import SearchQueue
from orchestrator.training.config import TrialConfig
from orchestrator.training.facts import EpochRow, TrialFacts


@dataclass(frozen=True, kw_only=True)
class SimulatedEnd:
    """A trial that ended."""

    trial: TrialRecord
    at_seconds: float
    """Of the imitated clock, from the start of the search."""
    study_epochs: int
    """That all trials of its study had trained by then."""


Seconds = Callable[[RecordedTrial, int], float]
"""What an epoch (1, 2, ...) of a trial takes."""


def recorded_seconds(trial: RecordedTrial, epoch: int) -> float:
    """As it took when it was recorded."""
    return trial.seconds[epoch - 1]


def simulate(
    plan: SweepPlan,
    curves: Curves,
    *,
    num_slots: int = 1,
    seconds: Seconds = recorded_seconds,
    record: "SimulatedRecord | None" = None,
) -> Iterator[SimulatedEnd]:
    """The trials of a search in the order in which they end.

    `curves` has at least as many trials of each study as the plan; a configuration that is proposed
    becomes the nearest of them that its study has not had yet. ValueError where there are too few.
    """
    record = record or SimulatedRecord(plan, curves)
    ends = _Ends()
    queue = SearchQueue(record, Path("/nowhere"), [ends])
    epochs: dict[str, int] = defaultdict(int)
    trained: dict[tuple[str, int], int] = defaultdict(int)
    idle = set(range(num_slots))
    waiting: list[tuple[float, int, _Running]] = []
    order = itertools.count()

    def begin(slot: int, now: float) -> None:
        run_id = str(next(order))
        run = queue.next_run(run_id)
        if run is None or run == "finished":
            return
        done = trained[run.config.study, run.config.number]
        running = _Running(run_id, slot, run.config, record.recorded(run.config), epoch=done)
        heapq.heappush(waiting, (*running.until_next_report(plan, now, seconds), running))
        idle.remove(slot)

    for slot in range(num_slots):
        begin(slot, 0.0)
    while waiting:
        now, _, running = heapq.heappop(waiting)
        study, number, rows = running.config.study, running.config.number, running.next_rows
        epochs[study] += sum(row["epoch"] > running.epoch for row in rows)
        is_over = queue.reported(running.run_id, running.report(rows))
        trained[study, number] = running.epoch
        for trial in ends.taken():
            yield SimulatedEnd(trial=trial, at_seconds=now, study_epochs=epochs[trial.study])
        if is_over:
            queue.forget(running.run_id)
            idle.add(running.slot)
        else:
            heapq.heappush(waiting, (*running.until_next_report(plan, now, seconds), running))
        # The one that is free now first; what was reported may let others go on.
        for slot in sorted(idle, key=lambda slot: (slot != running.slot, slot)):
            begin(slot, now)


class SimulatedRecord(Record):
    """A record in memory whose trials are those that were recorded."""

    def __init__(self, plan: SweepPlan, curves: Curves) -> None:
        self._curves: dict[str, list[RecordedTrial]] = defaultdict(list)
        for trial in curves.trials:
            self._curves[trial.study].append(trial)
        self._taken: dict[tuple[str, int], RecordedTrial] = {}
        for study in plan.studies:
            needed = study.num_trials
            if plan.allocation == GAIN:
                needed = ceiling(needed, most_trials(plan, study.name))
            if (have := len(self._curves[study.name])) < needed:
                raise ValueError(
                    f"{study.name}: {have} trials were recorded, {needed} may be asked for"
                )
        super().__init__(plan, IN_MEMORY)

    def recorded(self, config: TrialConfig) -> RecordedTrial:
        """What a trial of the plan is answered from."""
        return self._taken[config.study, config.number]

    def _proposed(self, study: str, trial_id: int, number: int) -> Proposal:
        wanted = super()._proposed(study, trial_id, number)
        if (study, number) not in self._taken:
            self._taken[study, number] = self._nearest(study, wanted)
        recorded = self._taken[study, number]
        sampler = StartingAt(recorded.config, SeededByName("random", 0))  # nothing is left to draw
        seen = self.optuna_study(study)
        found = drawn_by(sampler, self.plan, study, seen, trial_id, origin=wanted.origin)
        return replace(found, saw=wanted.saw)

    def _nearest(self, study: str, wanted: Proposal) -> RecordedTrial:
        space = self.plan.parsed_spaces[self.plan.study(study).space]
        taken = {id(trial) for (of, _), trial in self._taken.items() if of == study}
        free = [trial for trial in self._curves[study] if id(trial) not in taken]
        return min(free, key=lambda trial: distance(space, trial.config, wanted.config))


class _Ends:
    """An observer of the queue that keeps what ended, until it is taken."""

    def __init__(self) -> None:
        self._trials: list[TrialRecord] = []

    def taken(self) -> list[TrialRecord]:
        trials, self._trials = self._trials, []
        return trials

    def trial_started(self, trial: TrialRecord) -> None:
        """Nothing has ended."""

    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None:
        """Nor with its epochs."""

    def trial_frozen(self, trial: TrialRecord) -> None:
        """It may go on."""

    def trial_ended(self, trial: TrialRecord) -> None:
        self._trials.append(trial)

    def steered(self, steering: Steering, num_trials: Mapping[str, int]) -> None:
        """Nobody steers it."""


@dataclass
class _Running:
    """A trial on a slot."""

    run_id: str
    slot: int
    config: TrialConfig
    recorded: RecordedTrial
    epoch: int = 0
    """Until which it is trained."""
    told: int = 0
    """Until which it reported on this slot: a frozen trial that goes on begins with what it had."""
    next_epoch: int = 0

    def until_next_report(self, plan: SweepPlan, now: float, seconds: Seconds) -> tuple[float, int]:
        """When it reports next, as workers do: at a rung and at its end. Equal times go by slot."""
        last = len(self.recorded.val_accuracy)
        epoch = next(
            (e for e in range(self.epoch + 1, last) if plan.pruner.asked_at(e)), max(last, 1)
        )
        self.next_epoch = epoch
        passed = sum(seconds(self.recorded, e) for e in range(self.epoch + 1, min(epoch, last) + 1))
        return now + passed, self.slot

    @property
    def next_rows(self) -> list[EpochRow]:
        trial = self.recorded
        return [
            {
                "epoch": epoch,
                "val_accuracy": trial.val_accuracy[epoch - 1],
                "val_loss": trial.val_loss[epoch - 1],
                "train_loss": trial.train_loss[epoch - 1],
            }
            for epoch in range(self.told + 1, min(self.next_epoch, len(trial.val_accuracy)) + 1)
        ]

    def report(self, rows: Sequence[EpochRow]) -> Report:
        self.epoch = self.told = self.next_epoch
        ends = self.epoch >= len(self.recorded.val_accuracy)
        end = None
        if ends and self.recorded.failure is not None:
            end = Failed(self.recorded.failure, "config")
        elif ends:
            end = Finished()
        return Report(rows=rows, facts=_FACTS, end=end)


_FACTS = TrialFacts(
    wall_seconds=0.0,
    setup_seconds=0.0,
    train_seconds=0.0,
    eval_seconds=0.0,
    images_per_second=0.0,
    num_tuned_parameters=0,
    peak_memory_mib=0.0,
    readout=None,
    host="simulated",
    device="simulated",
    cpu_threads=1,
    precision="fp32",
    attention="fused",
    frozen_work="simulated",
    part_size=None,
    recompute=False,
)
