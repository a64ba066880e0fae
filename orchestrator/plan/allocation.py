"""How the trials of a sweep are shared between its studies.

`equal`: each study has the number that was planned for it. `gain`: the same total goes where
another trial is expected to gain most, and a study ends when as many trials again are expected to
gain little against the noise of its validation split.

**Expected gain.** The best of m draws from a distribution with an exponential tail of scale b grows
as b (1 + 1/2 + ... + 1/m) = b H(m), so that k trials after n gain b (H(n + k) - H(n)). The scale is
that of the best half of the trials: the mean excess over the next one below, which is the mean of
i times the i-th spacing from above (Rényi 1953; peaks over a threshold: Davison and Smith 1990,
https://doi.org/10.1111/j.2517-6161.1990.tb01796.x). The expected maximum of m < n draws by order
statistics (Tang et al. 2020, https://aclanthology.org/2020.acl-main.246) is unbiased but ends at n;
the best less the second, over n, is one of those spacings alone and as noisy as one draw. Trials
that were pruned or failed are draws that are not among the best; their values are not needed.
Accuracies are bounded, so that an exponential tail promises too much rather than too little.

**When a study ends.** With 200 validation images one standard error is 2 to 3.5 points, more than
one trial gains after a handful: judged by the next trial, every study would end at once. Judged by
all that it may still get, every study would end near its ceiling. So the horizon is as many trials
again as its equal share (no more than its space has configurations left). That what is left to gain
is compared with the error of the estimate follows Makarova et al. 2022,
https://arxiv.org/abs/2104.08166.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from orchestrator.support.counted import counted
from orchestrator.support.document import Between

EQUAL, GAIN = "equal", "gain"
ALLOCATIONS = (EQUAL, GAIN)

FLOOR, CEILING = 0.5, 2.0
"""Of its equal share, what every study gets at least and at most."""
LEAST_TRIALS = 6
"""Every study gets so many, if its equal share has them: of fewer no tail is told."""
SMALL = 0.5
"""What is left to gain is small below so many standard errors."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the trials of a study say of those to come; scores in [0, 1]."""

    num_ended: int = 0
    num_complete: int = 0
    scale: float = 0.0
    """Of the upper tail of its scores."""
    error: float = 0.5
    """The standard error of its best score."""


@dataclass(frozen=True, kw_only=True)
class EndedEarly:
    """Why a study gets no more trials, as it is kept in the storage."""

    num_asked: int
    num_complete: int
    num_more: int
    """Trials that were expected to gain little."""
    ceiling: int
    """What it could have got: where people give it more, it is judged again."""
    gain: float
    """Expected of those, in [0, 1]."""
    error: Annotated[float, Between(1e-12, 1)]
    after_event: int
    """Events of the study before it (`order.py`)."""
    after_event_in_sweep: int
    """And of all studies."""
    num_requests: int = 0
    """Of people, that it followed."""

    @property
    def sentence(self) -> str:
        """`ended after 14 trials: 46 more are expected to gain 0.4 points, ...`."""
        ended = f"ended after {counted(self.num_asked, 'trial')}: "
        if self.num_complete < 2:
            complete = "none" if self.num_complete == 0 else "only one"
            return f"{ended}{complete} of them complete, what more would gain cannot be told"
        return (
            f"{ended}{self.num_more} more are expected to gain "
            f"{100 * self.gain:.1f} points, small against the noise of its validation split "
            f"(± {100 * self.error:.1f})"
        )


@dataclass(frozen=True, kw_only=True)
class StudyShare:
    """A study among those that share the trials of a sweep."""

    name: str
    share: int
    """Its trials if all studies had as many."""
    most: int
    """As many configurations as its space has."""
    num_asked: int
    evidence: Evidence = Evidence()
    is_stopped: bool = False
    """People want no more of it."""
    must_go_on: bool = False
    """People want it to go on, whatever more is expected to gain: it gets its share."""
    ended: EndedEarly | None = None

    @property
    def floor(self) -> int:
        if self.must_go_on:
            return self.share
        return min(self.share, max(LEAST_TRIALS, math.ceil(FLOOR * self.share)))

    @property
    def ceiling(self) -> int:
        return max(self.share, min(self.most, int(CEILING * self.share)))

    @property
    def is_open(self) -> bool:
        return not (self.is_stopped or self.num_asked >= self.ceiling or self.stays_ended)

    @property
    def stays_ended(self) -> bool:
        ended = self.ended
        return ended is not None and not self.must_go_on and self.ceiling <= ended.ceiling

    @property
    def num_more(self) -> int:
        """As many trials again as its share; it is judged by what they are expected to gain."""
        return max(0, min(self.share, self.most - self.num_asked))

    @property
    def gain_of_more(self) -> float:
        """Expected of these."""
        return expected_gain(self.evidence.scale, self.num_asked, self.num_more)

    @property
    def next_gain(self) -> float:
        """Expected of its next trial, in standard errors of its best score."""
        return expected_gain(self.evidence.scale, self.num_asked, 1) / self.evidence.error

    @property
    def ends_now(self) -> bool:
        """Whether as many trials again are expected to gain little."""
        return (
            self.is_open
            and not self.must_go_on
            and min(self.num_asked, self.evidence.num_ended) >= self.floor
            and self.gain_of_more < SMALL * self.evidence.error
        )


class Shares:
    """All studies of a sweep, and which of them gets the next trial."""

    def __init__(self, studies: Sequence[StudyShare]) -> None:
        self.studies = studies

    @property
    def total(self) -> int:
        """Of those that people stopped what they had, of the others the equal shares."""
        return sum(study.num_asked if study.is_stopped else study.share for study in self.studies)

    @property
    def num_left(self) -> int:
        """Trials that will be handed out unless a study ends meanwhile."""
        room = sum(study.ceiling - study.num_asked for study in self.studies if study.is_open)
        asked = sum(study.num_asked for study in self.studies)
        return max(0, min(room, self.total - asked))

    def next_studies(self) -> list[StudyShare]:
        """Any of these may get the next trial; several only up to the floor, to which all advance
        together. Above it the largest expected gain counts, which gives the largest sum of gains,
        since each trial of a study gains less than the one before. Empty: none is left."""
        if not self.num_left:
            return []
        studies = [study for study in self.studies if study.is_open]
        below = [study for study in studies if study.num_asked < study.floor]
        if below:
            most = max(study.floor - study.num_asked for study in below)
            return [study for study in below if study.floor - study.num_asked == most]
        return [min(studies, key=lambda study: (-study.next_gain, study.num_asked))]

    def num_trials(self) -> dict[str, int]:
        """By study, if none ended any more and what is left went to those with the fewest."""
        found = {study.name: study.num_asked for study in self.studies}
        studies = [study for study in self.studies if study.is_open]
        left, low, high = self.num_left, 0, max((s.ceiling for s in studies), default=0)

        def missing(level: int) -> dict[str, int]:
            return {s.name: max(0, min(s.ceiling, level) - s.num_asked) for s in studies}

        while low < high:
            middle = (low + high + 1) // 2
            if sum(missing(middle).values()) <= left:
                low = middle
            else:
                high = middle - 1
        for name, more in missing(low).items():
            found[name] += more
            left -= more
        for study in studies:
            if left and found[study.name] == low < study.ceiling:
                found[study.name] += 1
                left -= 1
        return found


def evidence_of(scores: Sequence[float], num_ended: int, error: float) -> Evidence:
    """`scores` are those of the complete trials among `num_ended`."""
    return Evidence(
        num_ended=num_ended,
        num_complete=len(scores),
        scale=tail_scale(scores, num_ended),
        error=error,
    )


def tail_scale(scores: Sequence[float], num_ended: int) -> float:
    """The mean by which the best half of the trials exceed the next one below; 0 where fewer than
    two are complete."""
    above = min(max(1, num_ended // 2), len(scores) - 1)
    if above < 1:
        return 0.0
    best = sorted(scores, reverse=True)
    return max(0.0, sum(score - best[above] for score in best[:above]) / above)


def expected_gain(scale: float, num_before: int, num_more: int) -> float:
    """By how much the best of `num_before` trials is expected to rise with `num_more`."""
    return scale * max(0.0, _harmonic(num_before + num_more) - _harmonic(num_before))


def _harmonic(number: int) -> float:
    """1 + 1/2 + ... + 1/number."""
    if number < 100:
        return math.fsum(1 / one for one in range(1, number + 1))
    return math.log(number) + 0.5772156649015329 + 1 / (2 * number) - 1 / (12 * number**2)
