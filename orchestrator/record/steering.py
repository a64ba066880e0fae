"""What all requests to a sweep add up to: its slots, a pause, the trials of each study.

The plan stays as it was frozen. Whoever wants to know how many trials are left asks for the plan as
it is now, which differs from it in these numbers alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.plan.allocation import GAIN, Shares, StudyShare
from orchestrator.plan.plan import MOST_TRIALS, SweepPlan
from orchestrator.record.record import Record
from orchestrator.record.requests import Request, requests, shown_time

SHOWN = 3
"""Studies named in a line; of more it says how many."""


@dataclass(frozen=True, kw_only=True)
class Steering:
    """A sweep as people want it now."""

    trials: Mapping[str, int]
    """By study, whatever was handed out already."""
    slots: int | None = None
    """None: nobody asked for another number."""
    slots_asked: Request | None = None
    paused: Request | None = None
    """The request that paused it, while it is."""
    stopped: Mapping[str, Request]
    """By study: what stopped it."""
    go_on: Sequence[str] = ()
    """Studies that people want to go on, whatever the sweep decided of them."""
    num_requests: int = 0
    """That it is made of."""

    def num_trials(self, study: str, num_asked: int) -> int:
        """How many trials a study is to have: those that were handed out stay."""
        return num_asked if study in self.stopped else max(num_asked, self.trials[study])

    def after(self, plan: SweepPlan, request: Request) -> "Steering":
        """What it is with one request more."""
        wish, stopped = request.wish, dict(self.stopped)
        for study in wish.go_on:
            stopped.pop(study, None)
        stopped |= {study: request for study in wish.stop if study in self.trials}
        return Steering(
            trials={
                study: self.trials[study]
                if not wish.trials_text
                else min(
                    wish.trials or self.trials[study] + (wish.more_trials or 0),
                    most_trials(plan, study),
                )
                for study in self.trials
            },
            slots=self.slots if wish.slots is None else wish.slots,
            slots_asked=self.slots_asked if wish.slots is None else request,
            paused={None: self.paused, True: request, False: None}[wish.pause],
            stopped=stopped,
            go_on=tuple(
                study
                for study in self.trials
                if study in wish.go_on or (study in self.go_on and study not in wish.stop)
            ),
            num_requests=self.num_requests + 1,
        )

    @property
    def paused_text(self) -> str:
        """`paused by anna on node-1 since 2026-01-31 12:00:00 UTC`; empty where it is not."""
        paused = self.paused
        if paused is None:
            return ""
        return f"paused by {paused.asked_by} since {shown_time(paused.asked_at)}"


def unsteered(plan: SweepPlan) -> Steering:
    """A sweep that nobody asked anything of."""
    return Steering(trials={study.name: study.num_trials for study in plan.studies}, stopped={})


def steering_of(plan: SweepPlan, asked: Iterable[Request]) -> Steering:
    """What these requests add up to, in their order."""
    found = unsteered(plan)
    for request in asked:
        found = found.after(plan, request)
    return found


def with_trials(plan: SweepPlan, num_trials: Callable[[str], int]) -> SweepPlan:
    """The plan with another number of trials of each study."""
    studies = tuple(replace(s, num_trials=num_trials(s.name)) for s in plan.studies)
    return plan if studies == plan.studies else replace(plan, studies=studies)


def plan_now(plan: SweepPlan, record: Record) -> SweepPlan:
    """The plan with the trials that each study is to have now."""
    asked = requests(record)
    if plan.allocation == GAIN:
        return shared(plan, record, steering_of(plan, asked))
    if not asked:
        return plan
    steering = steering_of(plan, asked)
    return with_trials(plan, lambda study: steering.num_trials(study, record.num_asked(study)))


def shared(plan: SweepPlan, record: Record, steering: Steering) -> SweepPlan:
    """The plan with the trials that each study has if none ends any more, and why some ended."""
    shares = Shares([share_of(plan, record, steering, study.name) for study in plan.studies])
    ended = {
        share.name: share.ended.sentence
        for share in shares.studies
        if share.ended is not None and share.stays_ended and not share.is_stopped
    }
    plan = with_trials(plan, shares.num_trials().__getitem__)
    studies = tuple(replace(study, ended=ended.get(study.name, "")) for study in plan.studies)
    return replace(plan, studies=studies)


def share_of(plan: SweepPlan, record: Record, steering: Steering, study: str) -> StudyShare:
    """A study of a sweep with `--allocation gain`, by what is stored."""
    return StudyShare(
        name=study,
        share=steering.trials[study],
        most=most_trials(plan, study),
        num_asked=record.num_asked(study),
        evidence=record.evidence(study),
        is_stopped=study in steering.stopped,
        must_go_on=study in steering.go_on,
        ended=record.ended_early(study),
    )


def most_trials(plan: SweepPlan, study: str) -> int:
    """A study has no more than its space has configurations."""
    space = plan.parsed_spaces[plan.study(study).space]
    return max(plan.study(study).num_trials, int(min(MOST_TRIALS, space.num_combinations())))


def sentences(
    plan: SweepPlan, before: Steering, request: Request, *, num_slots: int | None = None
) -> list[str]:
    """What a request changed, a line each; `num_slots` ran side by side where nobody had asked."""
    wish, after = request.wish, before.after(plan, request)
    lines = []
    if wish.slots is not None:
        had = before.slots or num_slots
        lines.append(f"slots: {wish.slots}{f' instead of {had}' if had else ''}")
    if wish.trials_text:
        lines += _trials_lines(plan, before, after, request)
    if wish.pause:
        lines.append("paused: no trial begins, those that run go on to their end")
    elif wish.pause is not None:
        lines.append("goes on" if before.paused else "goes on: it was not paused")
    if wish.stop:
        frozen = ", those that are frozen are pruned for good" if plan.pruner.freezes else ""
        lines.append(
            f"{_named(wish.stop)}: stopped, no trial of it begins, those that run go on to their "
            f"end{frozen}"
        )
    if wish.go_on:
        lines.append(f"{_named(wish.go_on)}: goes on")
    return [f"{line}, {request.asked}" for line in lines]


def steering_lines(asked: Sequence[Request], steering: Steering) -> list[str]:
    """What holds now that the plan does not say, and what no driver has heeded yet."""
    lines = [steering.paused_text] if steering.paused else []
    if steering.slots_asked is not None:
        lines.append(f"slots: {steering.slots}, {steering.slots_asked.asked}")
    lines += [f"{study}: stopped, {request.asked}" for study, request in steering.stopped.items()]
    lines += [
        f"trials of each study: {request.wish.trials_text}, {request.asked}"
        for request in asked
        if request.wish.trials_text
    ]
    waiting = [one for one in asked if one.heeded_at is None]
    return [*lines, *(f"not heeded yet: {one.wish}, {one.asked}" for one in waiting)]


def _trials_lines(
    plan: SweepPlan, before: Steering, after: Steering, request: Request
) -> Iterator[str]:
    wish = request.wish
    changes: dict[tuple[int, int, bool], list[str]] = {}
    for study, had in before.trials.items():
        wanted, now = wish.trials or had + (wish.more_trials or 0), after.trials[study]
        changes.setdefault((had, now, now < wanted), []).append(study)
    for (had, now, is_capped), studies in changes.items():
        whose = "each study" if len(studies) == len(before.trials) > 1 else _named(studies)
        why = " (its space has no more configurations)" if is_capped else ""
        yield f"trials of {whose}: {now} instead of {had}{why}"


def _named(studies: Sequence[str]) -> str:
    more = len(studies) - SHOWN
    return ", ".join([*studies[:SHOWN], *([f"and {more} more"] if more > 0 else [])])
