"""Whether more trials would probably help; where that cannot be said, why, and what would help."""

import math
from dataclasses import dataclass
from typing import Literal

from orchestrator.report.collect import StudyReport
from orchestrator.support.counted import counted

MIN_TRIALS = 10
"""Below this nothing is said about convergence."""
QUIET_SHARE = 1 / 3
"""A search whose best stood unchanged over this share of its last trials is called converged."""
ENOUGH_TRIALS = 30
"""What is proposed where there were too few: with fewer the sampler has hardly begun to learn."""

Verdict = Literal["converged", "exhausted", "not converged", "too few", "not over", "none"]

COUNTED: dict[Verdict, str] = {
    "converged": "had converged",
    "exhausted": "had tried every configuration of the space",
    "not converged": "had not converged",
    "too few": f"had too few trials to tell convergence (at least {MIN_TRIALS} are needed)",
    "not over": "had not come to their end",
    "none": "had no complete trial",
}
"""Behind the number of studies of which it is true."""


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """Whether more trials would probably help."""

    verdict: Verdict
    short: str
    """For a table."""
    sentence: str

    @property
    def converged(self) -> bool | None:
        """None where it cannot be said."""
        return {"converged": True, "exhausted": True, "not converged": False}.get(self.verdict)


def convergence(study: StudyReport) -> Convergence:
    """By how long the best value has stood, in the order in which trials ended."""
    ended, planned = len(study.finished), study.plan.num_trials
    if study.best is None:
        sentence = f"No complete trial among {ended} that ended; {what_would_help(study)}."
        return Convergence(verdict="none", short="no complete trial", sentence=sentence)
    if is_exhausted(study):
        return _exhausted(study)
    found_at = 1 + study.finished.index(study.best)
    where = f"the best value came with trial {found_at} of the {ended} that ended"
    if ended < planned:
        return Convergence(
            verdict="not over",
            short=f"not over: {ended} of {counted(planned, 'trial')}",
            sentence=f"The search is not over ({ended} of {counted(planned, 'trial')}); so far "
            f"{where}.",
        )
    why = f"{study.plan.ended[:1].upper()}{study.plan.ended[1:]}"
    if ended < MIN_TRIALS:
        return Convergence(
            verdict="too few",
            short=f"cannot say: {counted(ended, 'trial')}, {MIN_TRIALS} needed",
            sentence=f"{why}{'. ' if why else ''}"
            f"Too few trials to say whether the search has converged: {ended} ended, at "
            f"least {MIN_TRIALS} are needed; {what_would_help(study, ended=MIN_TRIALS)}.",
        )
    if why:
        return Convergence(
            verdict="converged", short="yes: little left to gain", sentence=f"{why}; {where}."
        )
    quiet = (ended - found_at) / ended
    if quiet >= QUIET_SHARE:
        return Convergence(
            verdict="converged",
            short="yes",
            sentence=f"Converged as far as one can tell: {where}, "
            f"and the last {100 * quiet:.0f} % did not improve on it.",
        )
    return Convergence(
        verdict="not converged",
        short="no",
        sentence=f"Not converged: {where}, so more trials may help; "
        f"{what_would_help(study, ended=2 * planned)}.",
    )


def is_exhausted(study: StudyReport) -> bool:
    """Every configuration of the space was tried, to the end or until the pruner stopped it."""
    return _num_tried(study) >= study.space.num_combinations()


def what_would_help(study: StudyReport, *, ended: int = 0, complete: int = 0) -> str:
    """What would bring a study to so many trials that ended, and so many complete ones."""
    now, planned = len(study.finished), study.plan.num_trials
    if now < planned:
        left = f"{now} of {counted(planned, 'trial')}"
        return f"the search is not over ({left}): `orchestrator resume` goes on"
    if now and study.states["failed"] == now:
        return "all of them failed, and their reasons come first"
    room = study.space.num_combinations()
    share = study.states["complete"] / now if study.states["complete"] else 1
    if room <= now or room * share < complete:
        return (
            f"its space has {counted(round(room), 'configuration')}, of which {_num_tried(study)} "
            f"{'was' if _num_tried(study) == 1 else 'were'} tried: a wider one would"
        )
    wanted = max(ENOUGH_TRIALS, ended, math.ceil(complete / share))
    wanted = min(room, 10 * math.ceil(wanted / 10))
    return (
        "`orchestrator resume` adds none to a search that is over, a new sweep with "
        f"`--trials {wanted:.0f}` would"
    )


def _exhausted(study: StudyReport) -> Convergence:
    room = round(study.space.num_combinations())
    if room == 1:
        return Convergence(
            verdict="exhausted",
            short="yes: the only one was tried",
            sentence="The space has one configuration, and it was tried: there is nothing to "
            "search; a wider space would have more.",
        )
    pruned = study.states["pruned"]
    stopped = f", {pruned} of them until the pruner stopped them" if pruned else ""
    return Convergence(
        verdict="exhausted",
        short=f"yes: all {room} were tried",
        sentence=f"All {room} configurations of the space were tried{stopped}: more trials have "
        "nothing new to try, a wider space would.",
    )


def _num_tried(study: StudyReport) -> int:
    """How many different configurations; those whose trials failed are not known."""
    return len(
        {
            tuple(sorted((name, repr(value)) for name, value in study.searched(trial).items()))
            for trial in study.finished
            if trial.state != "failed"
        }
    )
