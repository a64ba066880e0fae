"""How long what is left of a sweep will take, by what its ended trials took.

A study is known by its own trials, or else by those of its search space on other tasks. How far
trials get before they are pruned is the Kaplan-Meier estimate over all that began, those that still
run included: the first trials to end are the pruned ones, and would promise too much alone. One
that was frozen counts as ended until it goes on.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.space import SearchSpace, default_of, extremes
from orchestrator.record.record import FINISHED, FROZEN_STATE, TrialRecord

Running = Mapping[str, Mapping[int, int]]
"""By study: epochs done, by number of the trial."""


@dataclass
class _Cost:
    """What the ended trials of a study, or of a space, took in their workers."""

    setups: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """Without the setups."""
    epochs: int = 0

    def add(self, setup: float, seconds: float, epochs: int) -> None:
        self.setups.append(setup)
        self.seconds += seconds
        self.epochs += epochs

    @property
    def setup(self) -> float:
        # The first trial of a worker also decodes, compiles or computes features.
        return median(self.setups)

    @property
    def per_epoch(self) -> float:
        return self.seconds / self.epochs


class Pace:
    """What trials took so far; in seconds of a worker."""

    def __init__(self, plan: SweepPlan) -> None:
        self._spaces = {study.name: study.space for study in plan.studies}
        self._epochs = {name: _most_epochs(space) for name, space in plan.parsed_spaces.items()}
        self._costs: dict[str, _Cost] = defaultdict(_Cost)
        """By study and by space."""
        self._ends: dict[str, Counter[int]] = defaultdict(Counter)
        """By space: how many trials ended after so many epochs."""
        self._frozen_after: dict[tuple[str, int], int] = {}
        """Epochs of the trials that wait."""
        self._before: dict[tuple[str, int], tuple[float, int]] = {}
        """Seconds and epochs of a trial when it was frozen last."""

    def trial_started(self, study: str, number: int) -> int:
        """The epochs that it has; 0 unless it was frozen and goes on."""
        epochs = self._frozen_after.pop((study, number), 0)
        if epochs:
            self._ends[self._spaces[study]][epochs] -= 1
        return epochs

    def trial_ended(self, trial: TrialRecord) -> float:
        """Or was frozen; the seconds that it took since it was frozen last."""
        key = trial.study, trial.number
        seconds_before, epochs_before = self._before.get(key, (0.0, 0))
        seconds = max(0.0, seconds_of(trial) - seconds_before)
        is_frozen = trial.state == FROZEN_STATE
        if not (is_frozen or trial.state in FINISHED) or not trial.curve:
            return seconds
        self.trial_started(*key)  # one that waited in vain has been counted
        space = self._spaces[trial.study]
        epochs = int(trial.curve[-1]["epoch"])
        self._ends[space][epochs] += 1
        if is_frozen:
            self._frozen_after[key] = epochs
            self._before[key] = seconds_of(trial), epochs
        if seconds or epochs > epochs_before:
            setup = min(seconds, trial.facts.get("setup_seconds", 0.0))
            for name in (f"study {trial.study}", f"space {space}"):
                self._costs[name].add(setup, seconds - setup, max(0, epochs - epochs_before))
        return seconds

    def seconds_left(
        self,
        running: Running,
        not_begun: Mapping[str, int],
        *,
        worker_seconds: float,
        in_seconds: float,
    ) -> float | None:
        """Until the last trial has ended, if as much is trained at a time as so far.

        `worker_seconds` were spent by the trials that ended within the last `in_seconds`, in which
        the running ones began or went on. None where it cannot be known: of a method that something
        is left of, no trial has ended yet.
        """
        still, longest, spent = 0.0, 0.0, worker_seconds
        going_on = self._shares_that_begin(running)
        for study, space in self._spaces.items():
            trials, waiting = running.get(study, {}), max(0, not_begun.get(study, 0))
            if not trials and not waiting:
                continue
            cost = self._cost(study)
            if cost is None:
                return None
            shares = going_on[space]
            still += waiting * (cost.setup + cost.per_epoch * sum(shares))
            for number, epochs in trials.items():
                seconds = cost.per_epoch * _mean_left(shares, epochs)
                _, before = self._before.get((study, number), (0.0, 0))
                if epochs > before:
                    spent += cost.setup + cost.per_epoch * (epochs - before)
                else:
                    seconds += cost.setup
                still, longest = still + seconds, max(longest, seconds)
        if not still:
            return 0.0
        return max(longest, still * in_seconds / spent) if spent else None

    def _shares_that_begin(self, running: Running) -> dict[str, list[float]]:
        """By space, for every epoch: the share of its trials that come so far as to begin it."""
        begun = {space: Counter(self._ends[space]) for space in self._epochs}
        for study, trials in running.items():
            begun[self._spaces[study]].update(trials.values())
        found = {}
        for space, planned in self._epochs.items():
            share, found[space] = 1.0, []
            for epoch in range(1, planned + 1):
                found[space].append(share)
                at_risk = sum(n for epochs, n in begun[space].items() if epochs >= epoch)
                if at_risk:
                    share *= 1 - self._ends[space][epoch] / at_risk
        return found

    def _cost(self, study: str) -> _Cost | None:
        names = (f"study {study}", f"space {self._spaces[study]}")
        return next((self._costs[name] for name in names if name in self._costs), None)


def _most_epochs(space: SearchSpace) -> int:
    for dimension in space.dimensions:
        if dimension.name == "epochs":
            return int(max(extremes(dimension.distribution)))  # type: ignore[type-var]
    return int(space.fixed.get("epochs") or default_of(space.method, "epochs") or 1)


def _mean_left(shares: list[float], done: int) -> float:
    """Epochs that a trial still trains which has done so many."""
    still = shares[done:]
    return sum(still) / still[0] if still and still[0] else 0.0


def seconds_of(trial: TrialRecord) -> float:
    """How long it took, in its worker."""
    if "wall_seconds" in trial.facts:
        return trial.facts["wall_seconds"]
    if trial.started is None or trial.finished is None:
        return 0.0
    return max(0.0, (trial.finished - trial.started).total_seconds())
