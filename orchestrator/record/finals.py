"""Finalists and final runs in the Optuna storage, beside the studies of the search.

Two studies for each study of the sweep: `.../finalists`, whose trials are the finalists, with the
score on each fold as intermediate value, and `.../final`, whose trials are the seeds of the
winner, with the test score as value. Finalists that the folds cannot tell apart may be trained
again: `.../finalists/repeat-1` has these, and why. A last stage that is done again is a round of
its own, `.../finalists-2` and `.../final-2`: nothing of an earlier round is ever changed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.pruners.wilcoxon import Wilcoxon
from orchestrator.record.columns import as_columns, as_rows
from orchestrator.record.database import id_of_trial, open_storage
from orchestrator.record.finalists import (
    CLEARLY_WORSE,
    Finalist,
    Winner,
    again,
    choose_winner,
    contenders,
    finalists_of,
    is_told,
    lead_text,
    num_left_out,
)
from orchestrator.record.record import FINISHED, STATES, Record
from orchestrator.record.stored_final import refuse_other_repeat, refuse_other_round
from orchestrator.training.facts import EpochRow
from orchestrator.training.objective import DIRECTION


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


@dataclass(frozen=True)
class _Round:
    """A last stage of one study, from the choice of its finalists on."""

    finalists: optuna.Study
    final: optuna.Study
    repeats: list[optuna.Study] = field(default_factory=list)


class FinalRecord:
    """The last stage of a sweep in its Optuna storage. To open it begins nothing.

    What is asked about a study is answered from its newest round, unless another is named.
    """

    def __init__(self, plan: SweepPlan, record: Record, storage_url: str) -> None:
        self.plan = plan
        self._record = record
        self._storage = open_storage(storage_url)
        names = set(optuna.get_all_study_names(self._storage))
        self._rounds = {study.name: self._begun(study.name, names) for study in plan.studies}

    @classmethod
    def begun(cls, plan: SweepPlan, record: Record, storage_url: str) -> "FinalRecord | None":
        """The stage as it was begun; None if it was not."""
        finals = cls(plan, record, storage_url)
        return finals if any(finals._rounds.values()) else None

    def begin(self, study: str, protocol: FinalProtocol, fingerprint: str) -> None:
        """Choose the finalists of a study and freeze them, as a new round.

        `fingerprint` is that of trainval and test. A round that had no finalists is begun afresh:
        nothing was compared in it and nothing tested.
        """
        rounds = self._rounds[study]
        if not rounds or self.chosen(study):
            rounds.append(self._make_round(study, len(rounds) + 1))
        stored = rounds[-1].finalists
        trials = self._record.trials(study)
        task = self.plan.task(self.plan.study(study).task)
        chosen = finalists_of(trials, task, protocol)
        left_out = num_left_out(trials, task, chosen)
        stored.set_user_attr(
            "search",
            {
                "finished": sum(trial.state in FINISHED for trial in trials),
                "planned": self.plan.study(study).num_trials,
                **({"num_left_out": left_out} if left_out else {}),
            },
        )
        stored.set_user_attr("protocol", {**protocol.stored(), "data_fingerprint": fingerprint})
        # The last of them: before it, the round does not count as begun.
        stored.set_user_attr("chosen", [trial.number for trial in chosen])
        self.go_on(study)

    def go_on(self, study: str) -> None:
        """See to it that all finalists that were chosen are there, also those that are trained
        again, and that none is held to be running that was measured on all folds: a driver may have
        been killed before it had written it."""
        if not self._rounds[study]:
            return
        newest = self._rounds[study][-1]
        for repeat, stored in enumerate((newest.finalists, *newest.repeats)):
            self._add_finalists(study, stored)
            for trial in stored.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                # Not of fewer folds: to go on stops nobody.
                if len(trial.intermediate_values) == self.protocol(study).num_folds:
                    self._judge(study, id_of_trial(self._storage, stored, trial.number), repeat)
        self._repeat_if_due(study)

    def num_rounds(self, study: str) -> int:
        """How often the last stage was begun; the newest round has this number."""
        return len(self._rounds[study])

    def chosen(self, study: str, round: int | None = None) -> list[int]:
        """Numbers of the finalists in the search, the best of the search first."""
        return list(self._round(study, round).finalists.user_attrs["chosen"])

    def protocol(self, study: str, round: int | None = None) -> FinalProtocol:
        told = dict(self._round(study, round).finalists.user_attrs["protocol"])
        del told["data_fingerprint"]
        return FinalProtocol(**{**told, "seeds": tuple(told["seeds"])})

    def fingerprint(self, study: str, round: int | None = None) -> str:
        """The digest of the images of trainval and test."""
        return self._round(study, round).finalists.user_attrs["protocol"]["data_fingerprint"]

    def num_trials_at_choice(self, study: str, round: int | None = None) -> int:
        """How many trials of the search had ended when the finalists were chosen."""
        stored = self._round(study, round).finalists
        told = stored.user_attrs.get("search")
        if told is not None:
            return told["finished"]
        # An older version did not write it: those that had ended when the finalists were added.
        added = [t.datetime_start for t in stored.get_trials(deepcopy=False) if t.datetime_start]
        ended = [trial.finished for trial in self._record.trials(study) if trial.finished]
        return sum(end <= min(added) for end in ended) if added else 0

    def num_left_out(self, study: str, round: int | None = None) -> int:
        """Trials that were within one standard error of the best, and were not compared; 0 where
        an older version chose."""
        return (
            self._round(study, round).finalists.user_attrs.get("search", {}).get("num_left_out", 0)
        )

    def reasons(self, study: str, round: int | None = None) -> list[str]:
        """Why finalists were trained again on the same folds: of each repeat that was begun."""
        return [one.user_attrs["reason"] for one in self._round(study, round).repeats]

    def num_repeats(self, study: str, round: int | None = None) -> int:
        """How often finalists were trained again, so far."""
        return len(self._round(study, round).repeats)

    def num_openings(self, study: str, round: int | None = None) -> int:
        """In how many rounds, up to this one, a winner was given the test split."""
        upto = self._rounds[study][: round or self.num_rounds(study)]
        return sum(bool(one.final.get_trials(deepcopy=False)) for one in upto)

    def finalists(self, study: str, round: int | None = None) -> list[Finalist]:
        """The best of the search first; none before the stage was begun.

        Where all that were to be trained again failed, they are as they were before: what is wrong
        then, say a machine, tells nothing of them.
        """
        if not self._rounds[study]:
            return []
        one = self._round(study, round)
        stored = one.finalists
        ranks = {number: rank for rank, number in enumerate(stored.user_attrs["chosen"])}
        found = [self._as_finalist(study, t) for t in stored.get_trials(deepcopy=False)]
        for repeat in one.repeats:
            trials = (self._as_finalist(study, t) for t in repeat.get_trials(deepcopy=False))
            trained = {finalist.number: finalist for finalist in trials}
            chosen = repeat.user_attrs["chosen"]
            is_void = all(n in trained and trained[n].state == "failed" for n in chosen)
            found = [
                f
                if f.number not in chosen
                else replace(f, void=trained[f.number])
                if is_void
                else again(f, trained.get(f.number))
                for f in found
            ]
        return sorted(found, key=lambda finalist: ranks[finalist.number])

    def finalist(self, study: str, number: int, round: int | None = None) -> Finalist:
        return next(f for f in self.finalists(study, round) if f.number == number)

    def fold_done(
        self,
        study: str,
        number: int,
        fold: int,
        *,
        curve: Sequence[EpochRow],
        facts: Mapping[str, Any],
        repeat: int = 0,
    ) -> None:
        """Write what the finalist reached on a fold; after it, it may be complete or stopped.

        Where that was the last of all, and the best cannot be told apart, these are to be trained
        again from here on. `repeat` is 0 with the first seeds.
        """
        trial_id = self._finalist_id(study, number, repeat)
        if self._storage.get_trial(trial_id).state.is_finished():
            return  # stopped while this fold was running
        told = {"curve": as_columns(curve), "facts": dict(facts)}
        self._storage.set_trial_user_attr(trial_id, f"fold {fold}", told)
        self._storage.set_trial_intermediate_value(trial_id, fold, curve[-1]["val_accuracy"])
        self._judge(study, trial_id, repeat)
        self._repeat_if_due(study)

    def finalist_failed(self, study: str, number: int, reason: str, repeat: int = 0) -> None:
        trial_id = self._finalist_id(study, number, repeat)
        if not self._storage.get_trial(trial_id).state.is_finished():
            self._storage.set_trial_user_attr(trial_id, "failure", reason)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
            self._repeat_if_due(study)

    def winner(self, study: str, round: int | None = None) -> Winner | None:
        """The winner of a study whose finalists have all ended; None before, or if all of them
        failed."""
        if not self._rounds[study]:
            return None
        final = self._round(study, round).final
        stored = final.user_attrs.get("winner")
        if stored is None:
            if not self._are_compared(study, round) or self._to_be_repeated(study, round):
                return None
            found = choose_winner(
                self.finalists(study, round),
                self.protocol(study, round).num_folds,
                self.num_labelled(study),
                self.plan.objective(study).unit,
                self.reasons(study, round),
            )
            if found is None:
                return None
            # Written before the first test image is seen.
            stored = asdict(found)
            final.set_user_attr("winner", stored)
        return Winner(**stored)

    def final_runs(self, study: str, round: int | None = None) -> list[FinalRun]:
        """Those that were begun, in the order of the protocol's seeds."""
        if not self._rounds[study]:
            return []
        order = {seed: rank for rank, seed in enumerate(self.protocol(study, round).seeds)}
        trials = self._round(study, round).final.get_trials(deepcopy=False)
        runs = [_as_final_run(study, trial) for trial in trials]
        return sorted(runs, key=lambda run: order[run.seed])

    def final_begun(self, study: str, seed: int, config: Mapping[str, Any]) -> None:
        if self._final_id(study, seed) is None:
            winner = self.winner(study)
            assert winner is not None
            told = {"seed": seed, "trial": winner.number, "config": dict(config)}
            self._round(study).final.add_trial(
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

    def num_left(self, study: str, round: int | None = None) -> int:
        """Runs that are still to be done if no finalist is stopped."""
        if not self._rounds[study]:
            return 0
        protocol, finalists = self.protocol(study, round), self.finalists(study, round)
        not_there = len(self.chosen(study, round)) - len(finalists)
        if not not_there and all(finalist.state == "failed" for finalist in finalists):
            return 0
        repeat = self.num_repeats(study, round)
        folds = sum(
            protocol.num_folds - len(finalist.done(repeat))
            for finalist in finalists
            if finalist.state == "running"
        )
        possible = self.num_possible(study, round)
        return (
            folds + not_there * protocol.num_folds + possible + len(self.seeds_left(study, round))
        )

    def num_possible(self, study: str, round: int | None = None) -> int:
        """Those of them that only finalists cause which the folds do not tell apart, at most."""
        if not self._rounds[study]:
            return 0
        protocol, begun = self.protocol(study, round), self.num_repeats(study, round)
        if begun >= protocol.repeats:
            return 0
        if self._are_compared(study, round):
            possible = len(self._to_be_repeated(study, round))
        else:
            finalists = self.finalists(study, round)
            not_there = len(self.chosen(study, round)) - len(finalists)
            possible = not_there + sum(
                len(f.passes) > begun or f.state == "running"
                for f in finalists
                if f.state in ("running", "complete")
            )
        return protocol.num_possible(possible, protocol.repeats - begun)

    def num_labelled(self, study: str) -> int:
        """Images of train and val, which the folds are made of."""
        task = self.plan.task(self.plan.study(study).task)
        return task.num_train + task.num_val

    def seeds_left(self, study: str, round: int | None = None) -> list[int]:
        """Those whose run has not ended."""
        runs = self.final_runs(study, round)
        ended = {run.seed for run in runs if run.state in ("complete", "failed")}
        return [seed for seed in self.protocol(study, round).seeds if seed not in ended]

    def _round(self, study: str, round: int | None = None) -> _Round:
        return self._rounds[study][(round or self.num_rounds(study)) - 1]

    def _begun(self, study: str, names: Collection[str]) -> list[_Round]:
        found: list[_Round] = []
        while _name_in_storage(self.plan, study, "final", len(found) + 1) in names:
            one = self._make_round(study, len(found) + 1)
            if not {"chosen", "protocol"} <= one.finalists.user_attrs.keys():
                break  # its driver was killed before the finalists were chosen
            trials = {trial.number for trial in self._record.trials(study)}
            refuse_other_round(one.finalists, one.final, trials=trials)
            while _repeat_name(one.finalists, len(one.repeats) + 1) in names:
                repeat = self._make_study(_repeat_name(one.finalists, len(one.repeats) + 1))
                if not {"chosen", "reason"} <= repeat.user_attrs.keys():
                    break  # likewise
                refuse_other_repeat(repeat, finalists=one.finalists.user_attrs["chosen"])
                one.repeats.append(repeat)
            found.append(one)
        return found

    def _make_round(self, study: str, number: int) -> _Round:
        """The studies of a round, made where they are not there."""
        finalists, final = (
            self._make_study(_name_in_storage(self.plan, study, kind, number))
            for kind in ("finalists", "final")
        )
        return _Round(finalists, final)

    def _make_study(self, name: str) -> optuna.Study:
        return optuna.create_study(
            study_name=name,
            storage=self._storage,
            direction=DIRECTION,
            pruner=Wilcoxon(p_threshold=CLEARLY_WORSE).make(),
            load_if_exists=True,
        )

    def _add_finalists(self, study: str, stored: optuna.Study) -> None:
        """Those that were chosen and are not there yet."""
        present = {t.user_attrs["trial"] for t in stored.get_trials(deepcopy=False)}
        for number in stored.user_attrs["chosen"]:
            if number not in present:
                trial = self._record.trial(study, number)
                told = {"trial": trial.number, "config": dict(trial.config)}
                new = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=told)
                stored.add_trial(new)

    def _are_compared(self, study: str, round: int | None = None) -> bool:
        """All finalists have ended, with the seeds of the newest repeat, too."""
        finalists = self.finalists(study, round)
        all_there = len(finalists) == len(self.chosen(study, round))
        return all_there and not any(finalist.state == "running" for finalist in finalists)

    def _to_be_repeated(self, study: str, round: int | None = None) -> list[Finalist]:
        """Finalists that are to be trained with other seeds before there is a winner, the best
        first; all of them have ended."""
        one, begun = self._round(study, round), self.num_repeats(study, round)
        if begun >= self.protocol(study, round).repeats or "winner" in one.final.user_attrs:
            return []
        leading = contenders(self.finalists(study, round), self.num_labelled(study))
        paired = [finalist for finalist in leading if len(finalist.repeats) == begun]
        return paired if len(paired) > 1 else []

    def _repeat_if_due(self, study: str) -> None:
        if self.num_repeats(study) >= self.protocol(study).repeats or not self._are_compared(study):
            return
        leading = self._to_be_repeated(study)
        if not leading:
            return
        one = self._round(study)
        repeat = self._make_study(_repeat_name(one.finalists, len(one.repeats) + 1))
        reason = lead_text(leading, self.num_labelled(study))
        repeat.set_user_attr("reason", reason)
        # The last of them: before it, the repeat does not count as begun.
        repeat.set_user_attr("chosen", [finalist.number for finalist in leading])
        one.repeats.append(repeat)
        self._add_finalists(study, repeat)

    def _judge(self, study: str, trial_id: int, repeat: int) -> None:
        trial = self._storage.get_trial(trial_id)
        values, finalists = trial.intermediate_values, self._round(study).finalists
        if len(values) == self.protocol(study).num_folds:
            mean = fmean(values.values())
            self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [mean])
        elif (
            not repeat
            and finalists.pruner.prune(finalists, trial)
            and self._may_be_stopped(study, trial)
        ):
            mean = fmean(values.values())
            self._storage.set_trial_state_values(trial_id, TrialState.PRUNED, [mean])

    def _may_be_stopped(self, study: str, trial: FrozenTrial) -> bool:
        """Not where the folds so far leave a near-tie that repeats are meant to resolve: the test
        by ranks takes few folds that all differ a little for a clear case."""
        if not self.protocol(study).repeats:
            return True
        best = self._as_finalist(study, self._round(study).finalists.best_trial)
        return is_told(best, self._as_finalist(study, trial), self.num_labelled(study))

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

    def _finalist_id(self, study: str, number: int, repeat: int) -> int:
        one = self._round(study)
        finalists = one.repeats[repeat - 1] if repeat else one.finalists
        trials = finalists.get_trials(deepcopy=False)
        stored = next(t.number for t in trials if t.user_attrs["trial"] == number)
        return id_of_trial(self._storage, finalists, stored)

    def _final_id(self, study: str, seed: int) -> int | None:
        final = self._round(study).final
        trials = final.get_trials(deepcopy=False)
        stored = next((t.number for t in trials if t.user_attrs["seed"] == seed), None)
        return None if stored is None else id_of_trial(self._storage, final, stored)


def _name_in_storage(plan: SweepPlan, study: str, kind: str, round: int) -> str:
    return f"{plan.name}/{study}/{kind}{'' if round == 1 else f'-{round}'}"


def _repeat_name(finalists: optuna.Study, number: int) -> str:
    return f"{finalists.study_name}/repeat-{number}"


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
