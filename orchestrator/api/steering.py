"""To ask something of a sweep that runs in another process, or will run again."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.api.requests import SetRequest
from orchestrator.plan.allocation import GAIN
from orchestrator.plan.plan import MOST_TRIALS, SweepPlan
from orchestrator.record.record import Record
from orchestrator.record.requests import Request, Wish, ask, requests, shown_time
from orchestrator.record.steering import plan_now, sentences, shared, steering_of, unsteered
from orchestrator.support.counted import counted
from orchestrator.support.did_you_mean import unknown

PATIENCE_SECONDS = 5.0
"""A driver that runs is waited for so long, to say whether it heeded what was asked."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked of a sweep, and whether somebody heeds it."""

    request: Request
    changes: Sequence[str]
    """What becomes another, in sentences."""
    driver: str | None
    """The process that runs the sweep; None: none, as far as one sees from here."""

    def outlook(self, resume: str) -> str:
        """Who heeds it, and when; `resume` is the command that goes on with the sweep."""
        request, driver = self.request, self.driver
        if request.heeded_at is not None:
            return f"heeded by {request.heeded_by} at {shown_time(request.heeded_at)}"
        if driver is None:
            return f"no driver runs the sweep: the next `{resume}` heeds it"
        return (
            f"not heeded yet by {driver}: it is once the search runs there, or by the next "
            f"`{resume}`"
        )


def as_texts(given: Mapping[str, Any]) -> dict[str, Any]:
    """`trials=40` in Python is the `--trials 40` of a command."""
    trials = given.get("trials")
    is_number = isinstance(trials, int) and not isinstance(trials, bool)
    return {**given, "trials": str(trials)} if is_number else dict(given)


def wish_of(request: SetRequest, plan: SweepPlan) -> Wish:
    """ValueError where it asks for nothing, for what cannot be, or names no study of the plan."""
    studies = [study.name for study in plan.studies]
    stop, go_on = tuple(request.stop_study or ()), tuple(request.go_on_study or ())
    for flag, names in (("--stop-study", stop), ("--go-on-study", go_on)):
        for name in names:
            if name not in studies:
                raise ValueError(f"{flag}: {unknown('study', name, studies)}")
    if both := sorted({*stop} & {*go_on}):
        raise ValueError(f"--stop-study and --go-on-study: {both[0]} is named by both")
    if request.pause and request.go_on:
        raise ValueError("--pause and --go-on: leave one of them out")
    wish = Wish(
        slots=request.slots,
        **_trials(request.trials),
        pause=True if request.pause else False if request.go_on else None,
        stop=stop,
        go_on=go_on,
    )
    if wish == Wish():
        raise ValueError(
            "nothing is asked for: --slots, --trials, --pause, --go-on, --stop-study or "
            "--go-on-study"
        )
    return wish


def _trials(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    found = re.fullmatch(r"(\+?)([0-9]+)", text.strip())
    if found is None or not 1 <= int(found[2]) <= MOST_TRIALS:
        raise ValueError(
            f"--trials: expected 1 to {MOST_TRIALS:,}, or +N for N more than now, found {text!r}"
        )
    return {"more_trials" if found[1] else "trials": int(found[2])}


def refuse_over(plan: SweepPlan, record: Record) -> None:
    """ValueError if the search came to its planned end. One that was cut short can go on."""
    now = {study.name: study.num_trials for study in plan_now(plan, record).studies}
    if plan.allocation == GAIN:
        plan = shared(plan, record, unsteered(plan))  # studies may have ended with less
    finished = {study.name: record.num_finished(study.name) for study in plan.studies}
    if all(
        finished[study.name] >= max(study.num_trials, now[study.name]) for study in plan.studies
    ):
        raise ValueError(
            f"sweep {plan.name}: its search is over, with "
            f"{counted(sum(finished.values()), 'trial')}: there is nothing left to steer; a new "
            "sweep with more --trials would search further"
        )


def put(plan: SweepPlan, record: Record, wish: Wish, driver: str | None) -> Asked:
    """Write down what is asked; where a driver runs, say whether it heeds it."""
    before = requests(record)
    request = ask(record, wish)
    earlier = steering_of(plan, before)
    changes = [*sentences(plan, earlier, request), *_begun_already(plan, record, wish)]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while driver is not None and request.heeded_at is None and time.monotonic() < deadline:
        time.sleep(0.2)
        request = next(one for one in requests(record) if one.number == request.number)
    return Asked(request=request, changes=changes, driver=driver)


def _begun_already(plan: SweepPlan, record: Record, wish: Wish) -> list[str]:
    if wish.trials is None:
        return []
    begun = {study.name: record.num_asked(study.name) for study in plan.studies}
    return [
        f"{study}: {counted(number, 'trial was', 'trials were')} begun already, and stay"
        for study, number in begun.items()
        if number > wish.trials
    ]
