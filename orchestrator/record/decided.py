"""What a trial is to be and whether it goes on, decided by what stands in its study alone, and
where winners are shared by how far the others of its space are.

The record writes what is said here, and `replay.py` asks for it again. Neither sampler nor pruner
may know anything that is not in the storage: what a driver knew is gone when it is killed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.samplers import SeededByName
from orchestrator.plan.shared_winners import others_of_space, shares_winners
from orchestrator.plan.trial_sampler import sampler_of_trial
from orchestrator.record.frozen import seen_by_samplers
from orchestrator.record.held_back import HeldBack, judged_with
from orchestrator.record.others import Others, last_ends
from orchestrator.record.seen_cost import SeeingCost
from orchestrator.record.stopped import Comparison, compare
from orchestrator.record.write_tables import Param


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The values of a trial, before they are written."""

    config: Mapping[str, Any]
    params: Mapping[str, Param]
    """Those that were not in the storage yet."""
    origin: str | None
    saw: Mapping[str, int] | None = None
    """How far the studies were whose winners it may be (`others.py`); None: it may be of none."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the pruner last said of a trial."""

    epoch: int = 0
    stops: bool = False
    rungs: Mapping[str, Any] = field(default_factory=dict)
    """What it wants to leave in the storage for its next decisions."""
    against: Comparison | None = None
    """What it compared with, where it stops the trial."""
    events: Sequence[tuple[int, int]] = ()
    """The epochs after which it was asked about the trial so far, each with the number of this
    event (`order.py`)."""


def propose(
    plan: SweepPlan, name: str, study: optuna.Study, trial_id: int, number: int, others: Others
) -> Proposal:
    """What a trial of the study `name` is to be, by whatever the plan has draw it.

    `others` is asked where it may be a winner of another study.
    Values already in the storage stay; a trial cut off while it was drawn gets the rest.
    """
    # Seeded anew for each trial it decides by the storage alone: after a crash the decisions are
    # those of an undisturbed run.
    seed = plan.trial_seed(name, number)
    search: optuna.samplers.BaseSampler = SeededByName(plan.sampler, seed)
    if plan.also is not None:
        search = SeeingCost(search, plan.also.cost)
    planned = plan.study(name)
    may_share = plan.share_winners and shares_winners(planned, number)
    seen = others(others_of_space(plan, planned)) if may_share else {}
    stored = HeldBack(study, shown=seen_by_samplers(plan)).study(study)
    by = sampler_of_trial(plan, name, number, stored, otherwise=search, others=seen)
    drawn = drawn_by(by.sampler, plan, name, study, trial_id, origin=by.origin)
    return replace(drawn, saw=last_ends(seen)) if may_share else drawn


def drawn_by(
    sampler: optuna.samplers.BaseSampler,
    plan: SweepPlan,
    name: str,
    study: optuna.Study,
    trial_id: int,
    *,
    origin: str | None,
) -> Proposal:
    """What a trial of the study `name` is to be where this sampler proposes it."""
    held_back = HeldBack(study, shown=seen_by_samplers(plan))
    seen = held_back.study(study)
    seen.sampler = sampler
    space = plan.parsed_spaces[plan.study(name).space]
    config = space.draw(optuna.Trial(seen, trial_id))
    return Proposal(config=config, params=held_back.params, origin=origin)


def decide(plan: SweepPlan, study: optuna.Study, trial_id: int, epoch: int) -> Decision:
    """What the pruner says of a trial after an epoch, the last that it has reported."""
    rungs = HeldBack(study)
    judged = rungs.study(study)
    trial = rungs.get_trial(trial_id)
    # The median pruner answers with a numpy bool, which JSON does not take.
    stops = bool(judged.pruner.prune(judged, trial))
    against = (
        compare(plan.pruner, trial, judged_with(judged, trial), epoch, rungs.attributes)
        if stops
        else None
    )
    return Decision(epoch=epoch, stops=stops, rungs=rungs.attributes, against=against)
