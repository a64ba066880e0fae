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

**How sure that is.** Of m excesses the scale has a standard error of scale / sqrt(m), and a study
is judged again after each of its trials, where one low estimate of many would end it. Hence it ends
where the expected gain and its standard error are small together, and never on fewer complete
trials than `LEAST_COMPLETE`, which may be ties. Of drawn searches with a share of 20 whose 20 more
trials after the floor gain one standard error of the best score, still 29 % end while as many again
gain more than the half that is small, 0.7 on average (13 % where a third of the trials is
complete); of those that gain two, 2 % (`benchmarks/allocation.py --ends`). A study with fewer
complete trials is taken for an average one of the others, and gets no more than its equal share:
its trials may all fail.
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
LEAST_COMPLETE = 4
"""Complete trials of a study, before it may end or get more than its equal share."""
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

    @property
    def tells(self) -> bool:
        """Whether there is enough of it to judge by."""
        return self.num_complete >= LEAST_COMPLETE

    @property
    def scale_error(self) -> float:
        """The standard error of the scale: the mean of so many exponential excesses."""
        return self.scale / math.sqrt(max(1, _num_above(self.num_ended, self.num_complete)))


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
    gain_error: float
    """The standard error of that."""
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
        return (
            f"ended after {counted(self.num_asked, 'trial')}: {self.num_more} more are expected to "
            f"gain {100 * self.gain:.1f} ± {100 * self.gain_error:.1f} points, small against the "
            f"noise of its validation split (± {100 * self.error:.1f})"
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
    """People want it to go on, whatever more is expected to gain: it gets its share at least."""
    ended: EndedEarly | None = None

    @property
    def floor(self) -> int:
        if self.must_go_on:
            return self.share
        return min(self.share, max(LEAST_TRIALS, math.ceil(FLOOR * self.share)))

    @property
    def ceiling(self) -> int:
        return ceiling(self.share, self.most)

    @property
    def limit(self) -> int:
        """What it may get by what is known of it now."""
        return self.ceiling if self.evidence.tells else self.share

    @property
    def is_open(self) -> bool:
        return not (self.is_stopped or self.num_asked >= self.limit or self.stays_ended)

    @property
    def num_owed(self) -> int:
        """Trials that people want it to have, whatever the others got meanwhile."""
        return max(0, self.share - self.num_asked) if self.must_go_on and self.is_open else 0

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
    def gain_error(self) -> float:
        """The standard error of that."""
        return expected_gain(self.evidence.scale_error, self.num_asked, self.num_more)

    @property
    def ends_now(self) -> bool:
        """Whether as many trials again are expected to gain little."""
        return (
            self.is_open
            and not self.must_go_on
            and self.evidence.tells
            and min(self.num_asked, self.evidence.num_ended) >= self.floor
            and self.gain_of_more + self.gain_error < SMALL * self.evidence.error
        )


class Shares:
    """All studies of a sweep, and which of them gets the next trial."""

    def __init__(self, studies: Sequence[StudyShare]) -> None:
        self.studies = studies

    @property
    def total(self) -> int:
        """The equal shares, less what those lack that people stopped before they ended: nobody gets
        that. A stop makes it no larger, whatever the study had."""
        return sum(
            min(study.num_asked, study.share)
            if study.is_stopped and not study.stays_ended
            else study.share
            for study in self.studies
        )

    @property
    def num_left(self) -> int:
        """Trials that will be handed out unless a study ends meanwhile: of the total, or more where
        people want a study to go on whose trials the others have had."""
        room = sum(study.limit - study.num_asked for study in self.studies if study.is_open)
        asked = sum(study.num_asked for study in self.studies)
        owed = sum(study.num_owed for study in self.studies)
        return max(0, min(room, max(self.total - asked, owed)))

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
        return [min(studies, key=lambda study: (-self.next_gain(study), study.num_asked))]

    def next_gain(self, study: StudyShare) -> float:
        """Expected of its next trial, in standard errors of its best score."""
        scale = study.evidence.scale if study.evidence.tells else self._mean_scale
        return expected_gain(scale, study.num_asked, 1) / study.evidence.error

    @property
    def _mean_scale(self) -> float:
        """Of the studies that tell theirs; 0 if none does."""
        told = [study.evidence.scale for study in self.studies if study.evidence.tells]
        return math.fsum(told) / len(told) if told else 0.0

    def num_trials(self) -> dict[str, int]:
        """By study, if none ended any more and what is left went to those that people want to go
        on, then to those with the fewest."""
        found = {study.name: study.num_asked + study.num_owed for study in self.studies}
        studies = [study for study in self.studies if study.is_open]
        left = self.num_left - sum(study.num_owed for study in studies)
        low, high = 0, max((study.limit for study in studies), default=0)

        def missing(level: int) -> dict[str, int]:
            return {s.name: max(0, min(s.limit, level) - found[s.name]) for s in studies}

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
            if left and found[study.name] == low < study.limit:
                found[study.name] += 1
                left -= 1
        return found


def ceiling(share: int, most: int) -> int:
    """What a study gets at most: of its equal share, and of the configurations of its space."""
    return max(share, min(most, int(CEILING * share)))


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
    above = _num_above(num_ended, len(scores))
    if above < 1:
        return 0.0
    best = sorted(scores, reverse=True)
    return max(0.0, sum(score - best[above] for score in best[:above]) / above)


def _num_above(num_ended: int, num_complete: int) -> int:
    """Excesses that the tail is told by."""
    return min(max(1, num_ended // 2), num_complete - 1)


def expected_gain(scale: float, num_before: int, num_more: int) -> float:
    """By how much the best of `num_before` trials is expected to rise with `num_more`."""
    return scale * max(0.0, _harmonic(num_before + num_more) - _harmonic(num_before))


def _harmonic(number: int) -> float:
    """1 + 1/2 + ... + 1/number."""
    if number < 100:
        return math.fsum(1 / one for one in range(1, number + 1))
    return math.log(number) + 0.5772156649015329 + 1 / (2 * number) - 1 / (12 * number**2)
