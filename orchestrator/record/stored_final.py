"""What a storage says of a last stage, checked before anything is computed from it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import optuna
from optuna.trial import FrozenTrial

from orchestrator.plan.final_protocol import MOST_REPEATS
from orchestrator.record.finalists import Winner
from orchestrator.record.stored_facts import complaint_about_end, complaint_about_values
from orchestrator.support.document import Between, Entries, read_as, shown

_Number = Annotated[int, Between(0, 10**9)]


@dataclass(frozen=True, kw_only=True)
class _Protocol:
    num_finalists: Annotated[int, Between(1, 10**6)]
    num_folds: Annotated[int, Between(2, 10**6)]
    seeds: Annotated[tuple[int, ...], Entries(1)]
    data_fingerprint: str
    most_finalists: Annotated[int, Between(1, 10**6)] = 0
    repeats: Annotated[int, Between(0, MOST_REPEATS)] = 0


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    chosen: tuple[_Number, ...]


@dataclass(frozen=True, kw_only=True)
class _Search:
    finished: _Number
    planned: _Number
    num_left_out: _Number = 0


@dataclass(frozen=True, kw_only=True)
class _Repeat:
    chosen: Annotated[tuple[_Number, ...], Entries(2)]
    reason: str


def refuse_other_round(
    finalists: optuna.Study, final: optuna.Study, *, trials: Collection[int]
) -> None:
    """ValueError if these are no finalists and no final runs of a search with these trials."""
    source, told = finalists.study_name, finalists.user_attrs
    protocol = read_as(_Protocol, told["protocol"], source=f"{source}: protocol")
    chosen = read_as(_Chosen, {"chosen": told["chosen"]}, source=source).chosen
    if "search" in told:
        read_as(_Search, told["search"], source=f"{source}: search")
    for number in chosen:
        if number not in trials:
            raise ValueError(f"{source}: chosen: the search has no trial #{number}")
    for trial in finalists.get_trials(deepcopy=False):
        _refuse(source, trial, _of_finalist(trial, chosen))
    if "winner" in final.user_attrs:
        winner = read_as(Winner, final.user_attrs["winner"], source=f"{final.study_name}: winner")
        if winner.number not in chosen:
            raise ValueError(f"{final.study_name}: winner: #{winner.number} was no finalist")
    for trial in final.get_trials(deepcopy=False):
        _refuse(final.study_name, trial, _of_final_run(trial, chosen, protocol.seeds))


def refuse_other_repeat(repeat: optuna.Study, *, finalists: Collection[int]) -> None:
    """ValueError if in this study none of these `finalists` were trained again."""
    source, told = repeat.study_name, repeat.user_attrs
    entry = {"chosen": told["chosen"], "reason": told["reason"]}
    chosen = read_as(_Repeat, entry, source=source).chosen
    for number in chosen:
        if number not in finalists:
            raise ValueError(f"{source}: chosen: #{number} was no finalist")
    for trial in repeat.get_trials(deepcopy=False):
        _refuse(source, trial, _of_finalist(trial, chosen))


def _refuse(source: str, trial: FrozenTrial, complaint: str | None) -> None:
    if complaint:
        raise ValueError(f"{source}: #{trial.number}: {complaint}")


def _of_finalist(trial: FrozenTrial, chosen: Collection[int]) -> str | None:
    told = trial.user_attrs
    if told.get("trial") not in chosen:
        return f"trial: expected a finalist, found {shown(told.get('trial'))}"
    for fold in trial.intermediate_values:
        one = told.get(f"fold {fold}")
        if not isinstance(one, Mapping) or not {"curve", "facts"} <= one.keys():
            return f"fold {fold}: expected curve and facts, found {shown(one)}"
        if complaint := complaint_about_end(one):
            return f"fold {fold}: {complaint}"
    return complaint_about_values(trial) or complaint_about_end(told)


def _of_final_run(
    trial: FrozenTrial, chosen: Collection[int], seeds: Collection[int]
) -> str | None:
    told: Mapping[str, Any] = trial.user_attrs
    if told.get("trial") not in chosen:
        return f"trial: expected a finalist, found {shown(told.get('trial'))}"
    if type(told.get("seed")) is not int or told["seed"] not in seeds:
        return f"seed: expected one of the protocol, found {shown(told.get('seed'))}"
    return complaint_about_values(trial) or complaint_about_end(told)
