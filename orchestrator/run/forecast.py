"""What a sweep will cost, before it starts: trials, epochs, hours, memory, money.

What a step takes is measured (`run/calibration.py`); how many epochs trials run is known from the
pruner itself, asked about recorded curves (`plan/expected_epochs.py`); and the sweep is laid out on
its slots as often as it takes to say how sure that is.
"""

import heapq
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import mean, median, quantiles
from typing import Any

from orchestrator.cluster.slots import Slots
from orchestrator.plan.expected_epochs import LONGEST_STUDY, Curve, epochs_of_trials
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.plan.pruners import Pruner
from orchestrator.run.calibration import Calibration
from orchestrator.run.timed_trials import Timing
from orchestrator.support.counted import counted
from orchestrator.support.durations import duration_text
from orchestrator.support.shown_values import number_text

LAYOUTS = 40
"""Times that the sweep is laid out."""
REPLAYS = 6
"""Of the pruner at least, for studies of one space, each on curves of one task."""
REPLAYED_TRIALS = 240
"""Of small studies there are more replays: each says little."""
MANY_TRIALS = 20_000
"""A sweep of more is spread evenly over its slots instead."""

RAY_SECONDS = 6.0
"""Until Ray and its workers have started, beside what a worker loads; an estimate for 2 cores."""
BETWEEN_SECONDS = 0.1
"""From the end of a trial to the start of the next in its slot, with Ray on 2 cores; for the
processes of Ray and the driver share the processors (benchmarks/control.py)."""
UNSEEN = 0.1
"""An estimate: the relative standard deviation of what a short measurement cannot see, such as
processors that slow down when they are hot, other programs, the share of trials that a better
sampler brings further."""

Interval = tuple[float, float]
Recorded = Mapping[str, Sequence[Sequence[Curve]]]
"""Curves of the trials of each recorded study that is like those of a search space, by space."""


@dataclass(frozen=True, kw_only=True)
class SpaceForecast:
    """Of all studies of one search space."""

    space: str
    num_studies: int
    num_trials: int
    planned_epochs: int
    """Of a trial that is not stopped."""
    epochs: float
    """Of a trial, the mean."""
    trial_seconds: float | None
    """In a slot, the mean; None: not measured."""

    @property
    def slot_hours(self) -> float | None:
        return None if self.trial_seconds is None else self.num_trials * self.trial_seconds / 3600


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a sweep will cost. What was not measured is None, and `why_not` says why."""

    spaces: tuple[SpaceForecast, ...]
    slots: Slots
    hours: float | None = None
    """From start to end: as likely more as less."""
    interval: Interval | None = None
    """In hours; 80 % of the layouts lie within."""
    worker_memory_mib: float | None = None
    """Of a trial in its worker, on its device: the largest that was measured, beside what the
    worker's libraries take (on a GPU an estimate of it, `device_memory.OUTSIDE_BYTES`)."""
    price_per_hour: float | None = None
    """Of one GPU, or of one slot where there is none."""
    why_not: str = ""

    @property
    def num_studies(self) -> int:
        return sum(space.num_studies for space in self.spaces)

    @property
    def num_trials(self) -> int:
        return sum(space.num_trials for space in self.spaces)

    @property
    def epochs(self) -> float:
        """Of a trial, the mean."""
        return sum(space.num_trials * space.epochs for space in self.spaces) / self.num_trials

    @property
    def slot_hours(self) -> float | None:
        """Of all trials, in their slots."""
        if self.hours is None:
            return None
        return sum(space.slot_hours or 0.0 for space in self.spaces)

    @property
    def gpu_hours(self) -> float | None:
        """Of all trials; None on processors."""
        if self.slot_hours is None or self.slots.device == "cpu":
            return None
        return self.slot_hours * self.slots.gpus_per_trial

    @property
    def price(self) -> float | None:
        """Of the machines from start to end, whether their last slots are busy or not."""
        return self._price_of(self.hours)

    @property
    def price_interval(self) -> Interval | None:
        if self.interval is None or self.price_per_hour is None:
            return None
        low, high = map(self._price_of, self.interval)
        assert low is not None and high is not None
        return low, high

    def __str__(self) -> str:
        """In a line: the hours, how sure they are, and what trials are expected to do."""
        longest = max(space.planned_epochs for space in self.spaces)
        trials = counted(self.num_trials, "trial")
        epochs = f"{self.epochs:.3g} epochs a trial of at most {longest}"
        if self.hours is None or self.interval is None:
            return f"{trials}, {epochs}; how long they take is not known: {self.why_not}"
        low, high = (duration_text(3600 * hours).split() for hours in self.interval)
        between = f"{low[0]}{f' {low[1]}' if low[1] != high[1] else ''} to {' '.join(high)}"
        used = f"{number_text(self.slot_hours or 0.0)} slot-hours"
        if self.gpu_hours is not None:
            used = f"{number_text(self.gpu_hours)} GPU-hours"
        return (
            f"about {duration_text(3600 * self.hours)} on {counted(self.slots.num_slots, 'slot')} "
            f"(80 %: {between}), {used}{self._price_text}; {epochs}"
        )

    @property
    def _price_text(self) -> str:
        if self.price is None or self.price_interval is None:
            return ""
        low, high = self.price_interval
        return f", price {self.price:.2f} ({low:.2f} to {high:.2f})"

    def _price_of(self, hours: float | None) -> float | None:
        if hours is None or self.price_per_hour is None:
            return None
        slots = self.slots
        return self.price_per_hour * hours * slots.num_slots * (slots.gpus_per_trial or 1)

    def as_json(self) -> dict[str, Any]:
        """For programs; hours, seconds and MiB."""
        return {
            "studies": self.num_studies,
            "trials": self.num_trials,
            "epochs_per_trial": self.epochs,
            "slots": self.slots.num_slots,
            "cpu_threads": self.slots.cpu_threads,
            "gpus_per_trial": self.slots.gpus_per_trial,
            "slot_hours": self.slot_hours,
            "gpu_hours": self.gpu_hours,
            "hours": self.hours,
            "interval": self.interval,
            "worker_memory_mib": self.worker_memory_mib,
            "price_per_hour": self.price_per_hour,
            "price": self.price,
            "price_interval": self.price_interval,
            "why_not": self.why_not or None,
            "spaces": [
                {
                    "space": space.space,
                    "studies": space.num_studies,
                    "trials": space.num_trials,
                    "epochs_planned": space.planned_epochs,
                    "epochs_per_trial": space.epochs,
                    "seconds_per_trial": space.trial_seconds,
                    "slot_hours": space.slot_hours,
                }
                for space in self.spaces
            ],
        }


def forecast(
    plan: SweepPlan,
    slots: Slots,
    calibration: Calibration,
    curves: Recorded,
    *,
    with_ray: bool,
    price_per_hour: float | None = None,
) -> Forecast:
    """Of the whole plan on these slots."""
    ends = {study.name: _replays(plan, study, slots, calibration, curves) for study in plan.studies}
    spaces = tuple(_of_space(plan, name, calibration, ends) for name in plan.spaces)
    known = Forecast(
        spaces=spaces, slots=slots, price_per_hour=price_per_hour, why_not=calibration.why_not
    )
    if not calibration.timings:
        return known
    start = calibration.start_seconds + (RAY_SECONDS if with_ray else 0.0)
    between = BETWEEN_SECONDS if with_ray else 0.0
    hours = []
    for number in range(LAYOUTS):
        chance = random.Random(f"{plan.seed}/{number}")  # noqa: S311  # of no secret
        busy = _laid_out(plan, slots.num_slots, calibration, ends, chance, between)
        hours.append(chance.lognormvariate(0.0, UNSEEN) * (start + busy) / 3600)
    low, *_, high = quantiles(hours, n=10, method="inclusive")
    peaks = [timing.peak_memory_mib for found in calibration.timings.values() for timing in found]
    return replace(
        known,
        hours=median(hours),
        interval=(low, high),
        worker_memory_mib=calibration.base_memory_mib + max(peaks)
        if calibration.in_workers
        else None,
    )


Ends = Sequence[Sequence[int]]
"""Epochs that the trials of a study run, in each replay."""


def _replays(
    plan: SweepPlan,
    study: StudyPlan,
    slots: Slots,
    calibration: Calibration,
    curves: Recorded,
) -> Ends:
    """Studies that are alike share one."""
    side_by_side = max(1, math.ceil(slots.num_slots / len(plan.studies)))
    return _replayed(
        plan.pruner,
        tuple(tuple(map(tuple, recorded)) for recorded in curves.get(study.space, ())),
        calibration.drawn[study.space].epochs,
        min(study.num_trials, LONGEST_STUDY),
        min(side_by_side, study.num_trials),
        plan.engine.eval_every,
        plan.seed,
    )


@lru_cache(maxsize=256)
def _replayed(
    pruner: Pruner,
    curves: tuple[tuple[tuple[float, ...], ...], ...],
    epochs: int,
    num_trials: int,
    side_by_side: int,
    eval_every: int,
    seed: int,
) -> Ends:
    return [
        epochs_of_trials(
            pruner,
            curves[number % len(curves)] if curves else (),
            epochs=epochs,
            num_trials=num_trials,
            side_by_side=side_by_side,
            eval_every=eval_every,
            seed=seed + number,
        )
        for number in range(max(REPLAYS, math.ceil(REPLAYED_TRIALS / num_trials)))
    ]


def _of_space(
    plan: SweepPlan, name: str, calibration: Calibration, ends: Mapping[str, Ends]
) -> SpaceForecast:
    studies = [study for study in plan.studies if study.space == name]
    num_trials = sum(study.num_trials for study in studies)
    timings = calibration.timings.get(name, ())
    epochs = seconds = 0.0
    for study in studies:
        share = study.num_trials / num_trials
        of_a_trial = mean(
            _ends_at(replay, place)
            for replay in ends[study.name]
            for place in range(min(study.num_trials, 2 * LONGEST_STUDY))
        )
        epochs += share * of_a_trial
        if timings:
            seconds += share * mean(_seconds(plan, study, one, of_a_trial) for one in timings)
    return SpaceForecast(
        space=name,
        num_studies=len(studies),
        num_trials=num_trials,
        planned_epochs=calibration.drawn[name].epochs,
        epochs=epochs,
        trial_seconds=seconds if timings else None,
    )


def _ends_at(replay: Sequence[int], place: int) -> int:
    """Of a study longer than the replay the trials behind it end as those of its second half."""
    if place < len(replay):
        return replay[place]
    half = len(replay) // 2
    return replay[half + place % (len(replay) - half)]


def _seconds(plan: SweepPlan, study: StudyPlan, timing: Timing, epochs: float) -> float:
    """Of a trial that runs so many epochs, in a worker that knows its task."""
    task = plan.task(study.task)
    validated = max(1.0, epochs / plan.engine.eval_every)
    return (
        timing.setup_seconds
        + epochs * math.ceil(task.num_train / timing.batch_size) * timing.step_seconds
        + epochs * task.num_train * timing.train_seconds
        + validated * task.num_val * timing.eval_seconds
    )


def _laid_out(
    plan: SweepPlan,
    num_slots: int,
    calibration: Calibration,
    ends: Mapping[str, Ends],
    chance: random.Random,
    between: float,
) -> float:
    """Seconds until the last trial has ended, the studies in turn as a sweep takes them."""
    if plan.num_trials > MANY_TRIALS:
        return _evenly_spread(plan, num_slots, calibration, ends, between)
    replays = {study.name: chance.choice(ends[study.name]) for study in plan.studies}
    order = sorted(
        ((place, study) for study in plan.studies for place in range(study.num_trials)),
        key=lambda one: one[0] - one[1].num_trials,
    )
    slots = [(0.0, number) for number in range(num_slots)]
    known: set[tuple[int, str, str]] = set()
    for place, study in order:
        free_at, slot = heapq.heappop(slots)
        timing = chance.choice(calibration.timings[study.space])
        seconds = between + _seconds(plan, study, timing, _ends_at(replays[study.name], place))
        if (kept := (slot, study.task, study.space)) not in known:
            known.add(kept)
            task = plan.task(study.task)
            seconds += (task.num_train + task.num_val) * timing.once_seconds
        heapq.heappush(slots, (free_at + seconds, slot))
    return max(free_at for free_at, _ in slots)


def _evenly_spread(
    plan: SweepPlan,
    num_slots: int,
    calibration: Calibration,
    ends: Mapping[str, Ends],
    between: float,
) -> float:
    """When the last trials end matters little where there are very many."""
    found = [_of_space(plan, name, calibration, ends) for name in plan.spaces]
    return sum(one.num_trials * ((one.trial_seconds or 0.0) + between) for one in found) / num_slots
