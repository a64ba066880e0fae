"""Whether a sweep runs, how long it ran, and about how long it still takes: by its storage."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.owner import Driver
from orchestrator.record.record import FINISHED, FROZEN_STATE, TrialRecord
from orchestrator.record.requests import Request
from orchestrator.record.steering import Steering, steering_of
from orchestrator.report.time_left import Pace, Running, seconds_of

PAUSE = timedelta(minutes=10)
"""A sweep in which nothing ran for longer had been stopped."""

State = Literal["running", "stopped", "done", "unknown"]


@dataclass(frozen=True, kw_only=True)
class SweepState:
    """A sweep in a line; times are in seconds."""

    state: State
    """`unknown`: trials are left, and a driver on another machine could not be seen from here."""
    driver: str | None
    """The process that holds it now, for its search or its last stage."""
    elapsed: float
    """While trials ran, without the pauses in which it was stopped."""
    left: float | None
    """About so much longer; None where nothing runs or it cannot be known yet."""
    running: Running
    """Trials that run now; what a driver left behind that is gone does not."""
    asked: Sequence[Request]
    """What people asked of it, in their order."""
    steering: Steering
    """What that adds up to."""

    def as_json(self) -> dict[str, Any]:
        """What every row of `status --json` has of its sweep."""
        return {
            "sweep_state": self.state,
            "sweep_driver": self.driver,
            "sweep_elapsed_seconds": self.elapsed,
            "sweep_seconds_left": self.left,
            "sweep_paused": self.steering.paused_text or None,
            "sweep_slots_asked": self.steering.slots,
            "sweep_stopped_studies": list(self.steering.stopped),
            "sweep_requests": [
                {
                    "asked": str(request.wish),
                    "asked_by": request.asked_by,
                    "asked_at": request.asked_at,
                    "heeded_by": request.heeded_by,
                    "heeded_at": request.heeded_at,
                }
                for request in self.asked
            ],
        }


def sweep_state(
    plan: SweepPlan,
    trials: Sequence[TrialRecord],
    driver: Driver | None,
    *,
    sees_driver: bool,
    asked: Sequence[Request] = (),
) -> SweepState:
    """`sees_driver`: one that held the sweep would be known to us, so that None means there is
    none."""
    ended = [trial for trial in trials if trial.state in FINISHED]
    is_done = len(ended) >= plan.num_trials
    state: State = "done" if is_done else "running" if driver else "stopped"
    if not (is_done or driver or sees_driver):
        state = "unknown"
    running: dict[str, dict[int, int]] = {}
    begins = []
    if state in ("running", "unknown"):
        for trial in trials:
            if trial.state == "running":
                epochs = int(trial.curve[-1]["epoch"]) if trial.curve else 0
                running.setdefault(trial.study, {})[trial.number] = epochs
                begins += [begin for begin, _ in trial.in_work[-1:]]
    blocks = _blocks(trials, begins)
    elapsed = sum((end - begin).total_seconds() for begin, end in blocks)
    left, steering = None, steering_of(plan, asked)
    if state == "running" and driver is not None:
        since = _since_the_last(blocks, driver.since)
        elapsed += since
        if running and blocks and not steering.paused:
            begin, end = blocks[-1]
            in_seconds = (end - begin).total_seconds() + since
            left = _seconds_left(plan, trials, running, begin=begin, in_seconds=in_seconds)
    return SweepState(
        state=state,
        driver=driver.who if driver else None,
        elapsed=elapsed,
        left=left,
        running=running,
        asked=asked,
        steering=steering,
    )


def _seconds_left(
    plan: SweepPlan,
    trials: Sequence[TrialRecord],
    running: Running,
    *,
    begin: datetime,
    in_seconds: float,
) -> float | None:
    """By what was trained in the time up to now since `begin`, in which it was not stopped."""
    pace = Pace(plan)
    begun = {study.name: len(running.get(study.name, ())) for study in plan.studies}
    worker_seconds = 0.0
    for trial in trials:
        if trial.state not in (*FINISHED, FROZEN_STATE):
            continue
        seconds = pace.trial_ended(trial)
        begun[trial.study] += 1
        if any(end is not None and end > begin for _, end in trial.in_work):
            worker_seconds += seconds
    return pace.seconds_left(
        running,
        {study.name: study.num_trials - begun[study.name] for study in plan.studies},
        worker_seconds=worker_seconds,
        in_seconds=in_seconds,
    )


def _blocks(
    trials: Sequence[TrialRecord], begins: Sequence[datetime]
) -> list[tuple[datetime, datetime]]:
    """When trials ran, without the pauses; by the clock of whoever ran them."""
    spans = [(begin, begin) for begin in begins]
    for trial in trials:
        for begin, end in trial.in_work:
            if end is not None:
                # A trial that was begun before a pause ran at its end at least.
                ran = timedelta(seconds=seconds_of(trial)) + PAUSE if trial.facts else end - begin
                spans.append((max(begin, end - ran), end))
    blocks: list[tuple[datetime, datetime]] = []
    for begin, end in sorted(spans):
        if blocks and begin - blocks[-1][1] <= PAUSE:
            blocks[-1] = (blocks[-1][0], max(blocks[-1][1], end))
        else:
            blocks.append((begin, end))
    return blocks


def _since_the_last(
    blocks: Sequence[tuple[datetime, datetime]], driver_since: datetime | None
) -> float:
    """Seconds since the last trial began or ended, by a driver that runs since then or later."""
    if driver_since is None:
        return 0.0
    most = (datetime.now(UTC) - driver_since).total_seconds()
    if not blocks:
        return max(0.0, most)
    # The storage's times have no time zone; another one than ours must not add hours.
    return max(0.0, min(most, (datetime.now() - blocks[-1][1]).total_seconds()))
