"""Finalists and final runs in the Optuna storage, beside the studies of the search.

Two studies for each study of the sweep: `.../finalists`, whose trials are the finalists, with the
accuracy on each fold as intermediate value, and `.../final`, whose trials are the seeds of the
winner, with the test accuracy as value.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import fmean, stdev
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.final_protocol import FinalProtocol
from orchestrator.plan import SweepPlan
from orchestrator.record import (
    STATES,
    EpochRow,
    Record,
    TrialRecord,
    as_columns,
    as_rows,
)
from orchestrator.storage import open_storage

CLEARLY_WORSE = 0.1
"""A finalist is stopped when Wilcoxon's signed-rank test, paired by fold, has a smaller p."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One of the best trials of a study, and how it did on the folds."""

    trial: TrialRecord
    """As the search knows it."""
    state: str
    """running, complete, pruned or failed."""
    fold_accuracies: Mapping[int, float]
    fold_facts: Mapping[int, Mapping[str, Any]]
    fold_curves: Mapping[int, Sequence[EpochRow]]
    failure: str | None
    started: datetime | None
    finished: datetime | None

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def accuracy(self) -> float:
        """Mean over the folds so far."""
        return fmean(self.fold_accuracies.values()) if self.fold_accuracies else math.nan


@dataclass(frozen=True, kw_only=True)
class FinalRun:
    """The winner of a study with one seed, trained on trainval and tested once."""

    study: str
    seed: int
    trial: int
    """Number of the winner in the search."""
    state: str
    test_accuracy: float | None
    failure: str | None
    facts: Mapping[str, Any]
    curve: Sequence[EpochRow]
    started: datetime | None
    finished: datetime | None


@dataclass(frozen=True, kw_only=True)
class Winner:
    """Which finalist is retrained, and why."""

    number: int
    why: str


class FinalRecord:
    """The last stage of a sweep in its Optuna storage."""

    def __init__(
        self,
        plan: SweepPlan,
        record: Record,
        storage_url: str,
        *,
        protocol: FinalProtocol,
        fingerprints: Mapping[str, str],
    ) -> None:
        """Finalists are chosen when a study is opened first, and stay.

        `fingerprints` are those of trainval and test, by task. ValueError if the stage was begun
        with another protocol or other images.
        """
        self.plan = plan
        self.protocol = protocol
        self._record = record
        self._storage = open_storage(storage_url)
        self._finalists: dict[str, optuna.Study] = {}
        self._final: dict[str, optuna.Study] = {}
        for study in plan.studies:
            begun = {**asdict(protocol), "seeds": list(protocol.seeds)}
            begun["data_fingerprint"] = fingerprints[study.task]
            self._open(study.name, begun)

    @classmethod
    def begun(cls, plan: SweepPlan, record: Record, storage_url: str) -> "FinalRecord | None":
        """The stage as it was begun; None if it was not. Nothing is begun."""
        storage = open_storage(storage_url)
        protocols = {}
        for study in plan.studies:
            try:
                name = _name_in_storage(plan, study.name, "finalists")
                stored = optuna.load_study(study_name=name, storage=storage)
            except KeyError:
                return None
            if "protocol" not in stored.user_attrs:
                return None
            protocols[study] = dict(stored.user_attrs["protocol"])
        fingerprints = {s.task: told.pop("data_fingerprint") for s, told in protocols.items()}
        told = next(iter(protocols.values()))
        protocol = FinalProtocol(**{**told, "seeds": tuple(told["seeds"])})
        return cls(plan, record, storage_url, protocol=protocol, fingerprints=fingerprints)

    def finalists(self, study: str) -> list[Finalist]:
        """The best of the search first."""
        stored = self._finalists[study]
        ranks = {number: rank for rank, number in enumerate(stored.user_attrs["chosen"])}
        found = [self._as_finalist(study, t) for t in stored.get_trials(deepcopy=False)]
        return sorted(found, key=lambda finalist: ranks[finalist.number])

    def finalist(self, study: str, number: int) -> Finalist:
        return next(f for f in self.finalists(study) if f.number == number)

    def fold_done(
        self,
        study: str,
        number: int,
        fold: int,
        *,
        curve: Sequence[EpochRow],
        facts: Mapping[str, Any],
    ) -> None:
        """Write what the finalist reached on a fold; after it, it may be complete or stopped."""
        trial_id = self._finalist_id(study, number)
        if self._storage.get_trial(trial_id).state.is_finished():
            return  # stopped while this fold was running
        told = {"curve": as_columns(curve), "facts": dict(facts)}
        self._storage.set_trial_user_attr(trial_id, f"fold {fold}", told)
        self._storage.set_trial_intermediate_value(trial_id, fold, curve[-1]["val_accuracy"])
        self._judge(study, trial_id)

    def finalist_failed(self, study: str, number: int, reason: str) -> None:
        trial_id = self._finalist_id(study, number)
        if not self._storage.get_trial(trial_id).state.is_finished():
            self._storage.set_trial_user_attr(trial_id, "failure", reason)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def winner(self, study: str) -> Winner | None:
        """Of a study whose finalists have all ended; None before, or if all of them failed."""
        stored = self._final[study].user_attrs.get("winner")
        if stored is None:
            finalists = self.finalists(study)
            if any(finalist.state == "running" for finalist in finalists):
                return None
            found = choose_winner(finalists, self.protocol.num_folds)
            if found is None:
                return None
            # Written before the first test image is seen.
            stored = asdict(found)
            self._final[study].set_user_attr("winner", stored)
        return Winner(**stored)

    def final_runs(self, study: str) -> list[FinalRun]:
        """Those that were begun, in the order of the protocol's seeds."""
        order = {seed: rank for rank, seed in enumerate(self.protocol.seeds)}
        trials = self._final[study].get_trials(deepcopy=False)
        runs = [_as_final_run(study, trial) for trial in trials]
        return sorted(runs, key=lambda run: order[run.seed])

    def final_begun(self, study: str, seed: int, config: Mapping[str, Any]) -> None:
        if self._final_id(study, seed) is None:
            winner = self.winner(study)
            assert winner is not None
            told = {"seed": seed, "trial": winner.number, "config": dict(config)}
            self._final[study].add_trial(
                optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=told)
            )

    def final_done(
        self, study: str, seed: int, *, curve: Sequence[EpochRow], facts: Mapping[str, Any]
    ) -> None:
        trial_id = self._final_id(study, seed)
        assert trial_id is not None
        self._storage.set_trial_user_attr(trial_id, "curve", as_columns(curve))
        self._storage.set_trial_user_attr(trial_id, "facts", dict(facts))
        accuracy = [facts["test_accuracy"]]
        self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, accuracy)

    def final_failed(
        self, study: str, seed: int, reason: str, *, curve: Sequence[EpochRow] = ()
    ) -> None:
        trial_id = self._final_id(study, seed)
        assert trial_id is not None
        self._storage.set_trial_user_attr(trial_id, "curve", as_columns(curve))
        self._storage.set_trial_user_attr(trial_id, "failure", reason)
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _open(self, study: str, begun: Mapping[str, Any]) -> None:
        for kind, kept in (("finalists", self._finalists), ("final", self._final)):
            kept[study] = optuna.create_study(
                study_name=_name_in_storage(self.plan, study, kind),
                storage=self._storage,
                direction="maximize",
                pruner=_stops_clear_losers(),
                load_if_exists=True,
            )
        stored = self._finalists[study]
        before = stored.user_attrs.get("protocol")
        if before is not None and before != begun:
            changed = [
                f"{k} was {before[k]}, now {begun[k]}" for k in begun if before[k] != begun[k]
            ]
            raise ValueError(
                f"{study}: was finalized before, and its test images count once: "
                + "; ".join(changed)
            )
        if before is None:
            chosen = choose_finalists(self._record.trials(study), self.protocol.num_finalists)
            stored.set_user_attr("chosen", [trial.number for trial in chosen])
            stored.set_user_attr("protocol", dict(begun))
        present = {t.user_attrs["trial"] for t in stored.get_trials(deepcopy=False)}
        for number in stored.user_attrs["chosen"]:
            if number not in present:
                self._add_finalist(stored, self._record.trial(study, number))

    def _add_finalist(self, stored: optuna.Study, trial: TrialRecord) -> None:
        told = {"trial": trial.number, "config": dict(trial.config)}
        stored.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=told))

    def _judge(self, study: str, trial_id: int) -> None:
        trial = self._storage.get_trial(trial_id)
        values = trial.intermediate_values
        if len(values) == self.protocol.num_folds:
            mean = fmean(values.values())
            self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [mean])
        elif self._finalists[study].pruner.prune(self._finalists[study], trial):
            mean = fmean(values.values())
            self._storage.set_trial_state_values(trial_id, TrialState.PRUNED, [mean])

    def _as_finalist(self, study: str, stored: FrozenTrial) -> Finalist:
        told = {fold: stored.user_attrs[f"fold {fold}"] for fold in stored.intermediate_values}
        return Finalist(
            trial=self._record.trial(study, stored.user_attrs["trial"]),
            state=STATES[stored.state],
            fold_accuracies=dict(sorted(stored.intermediate_values.items())),
            fold_facts={fold: one["facts"] for fold, one in told.items()},
            fold_curves={fold: as_rows(one["curve"]) for fold, one in told.items()},
            failure=stored.user_attrs.get("failure"),
            started=stored.datetime_start,
            finished=stored.datetime_complete,
        )

    def _finalist_id(self, study: str, number: int) -> int:
        trials = self._finalists[study].get_trials(deepcopy=False)
        return next(t._trial_id for t in trials if t.user_attrs["trial"] == number)

    def _final_id(self, study: str, seed: int) -> int | None:
        trials = self._final[study].get_trials(deepcopy=False)
        return next((t._trial_id for t in trials if t.user_attrs["seed"] == seed), None)


def _name_in_storage(plan: SweepPlan, study: str, kind: str) -> str:
    return f"{plan.name}/{study}/{kind}"


def _stops_clear_losers() -> optuna.pruners.BasePruner:
    with warnings.catch_warnings():
        # It is marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=CLEARLY_WORSE)


def choose_finalists(trials: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """The best complete trials with different configurations.

    Ties go to the smaller learning rate, then to the earlier trial, as everywhere.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    chosen: list[TrialRecord] = []
    for trial in sorted(complete, key=_search_rank):
        if len(chosen) < count and trial.config not in [other.config for other in chosen]:
            chosen.append(trial)
    return chosen


def choose_winner(finalists: Sequence[Finalist], num_folds: int) -> Winner | None:
    """The complete finalist with the highest mean over the folds.

    Ties go to the better in the search, then to the smaller learning rate and the earlier trial.
    """
    complete = [f for f in finalists if f.state == "complete"]
    if not complete:
        return None
    best = min(complete, key=lambda f: (-round(f.accuracy, 9), *_search_rank(f.trial)))
    parts = [f"trial #{best.number} has {_percent(best.accuracy)} over {num_folds} folds"]
    parts += [_against(best, other) for other in finalists if other is not best]
    if len(finalists) == 1:
        parts.append("it was the only finalist")
    return Winner(number=best.number, why="; ".join(parts))


def _against(best: Finalist, other: Finalist) -> str:
    name = f"#{other.number}"
    if other.state == "failed":
        return f"{name} failed: {other.failure}"
    shared = sorted(best.fold_accuracies.keys() & other.fold_accuracies.keys())
    differences = [best.fold_accuracies[k] - other.fold_accuracies[k] for k in shared]
    lead = fmean(differences)
    if other.state == "pruned":
        return (
            f"{name} was stopped after {len(shared)} folds, {100 * lead:.1f} points behind "
            f"(Wilcoxon, p < {CLEARLY_WORSE})"
        )
    if round(lead, 9) == 0:
        return (
            f"{name} has the same, and the tie went by the search "
            f"({_percent(best.trial.val_accuracy)} against {_percent(other.trial.val_accuracy)}), "
            "then by the smaller learning rate and the earlier trial"
        )
    error = stdev(differences) / math.sqrt(len(differences))
    told = "" if lead > 2 * error else ", which the folds cannot tell apart"
    return (
        f"{name} has {_percent(other.accuracy)}, "
        f"{100 * lead:.1f} ± {100 * error:.1f} points less{told}"
    )


def _search_rank(trial: TrialRecord) -> tuple[float, float, int]:
    return (-(trial.val_accuracy or 0.0), trial.config.get("lr", 0.0), trial.number)


def _percent(accuracy: float | None) -> str:
    return f"{100 * (accuracy or 0.0):.1f} %"


def _as_final_run(study: str, trial: FrozenTrial) -> FinalRun:
    told = trial.user_attrs
    ended = trial.state.is_finished()
    return FinalRun(
        study=study,
        seed=told["seed"],
        trial=told["trial"],
        state=STATES[trial.state],
        test_accuracy=trial.value if trial.state is TrialState.COMPLETE else None,
        failure=told.get("failure") if ended else None,
        facts=told.get("facts", {}) if ended else {},
        curve=as_rows(told.get("curve", {})) if ended else [],
        started=trial.datetime_start,
        finished=trial.datetime_complete,
    )
