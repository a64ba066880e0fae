"""The Optuna storage: the one truth about a sweep.

Every ask, report, prune decision and result is written here, by the driver alone, before anything
else hears of it. Tracking, results table and exports are made from it and can be made again.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan.allocation import (
    EQUAL,
    GAIN,
    EndedEarly,
    Evidence,
    StudyShare,
    evidence_of,
)
from orchestrator.plan.plan import PLAN_FILE, SweepPlan, TaskPlan
from orchestrator.plan.pruners import current_entry, entry_of
from orchestrator.record.columns import as_columns, as_rows
from orchestrator.record.database import default_storage, id_of_trial, open_database
from orchestrator.record.decided import Decision, Proposal, decide, propose
from orchestrator.record.frozen import first_to_go_on, rung_of
from orchestrator.record.order import (
    DRAWN,
    DRAWN_IN_SWEEP,
    ENDED,
    ENDED_IN_SWEEP,
    FREEZES_AND_THAWS_AT,
    FROZEN,
    THAWED,
    Order,
    freezes_and_thaws_at,
    freezes_of,
    is_frozen,
    thaws_of,
    trained_until,
)
from orchestrator.record.others import SAW, others_now
from orchestrator.record.stopped import Stop
from orchestrator.record.stored_facts import refuse_other_facts
from orchestrator.record.write_tables import write_trial
from orchestrator.support.commit_points import commit_point
from orchestrator.support.document import read_as, shown
from orchestrator.support.uncertainty import standard_error
from orchestrator.training.config import TrialConfig
from orchestrator.training.facts import EpochRow
from orchestrator.training.objective import DEFAULT_METRIC, DIRECTION, is_score

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}
REQUESTS_FOLLOWED = "requests_followed"
"""Attribute of a trial."""
ENDED_EARLY = "ended_early"
"""Attribute of a study."""
FINISHED = ("complete", "pruned", "failed")
FROZEN_STATE = "frozen"
"""Of a trial that runs to Optuna, and waits (`frozen.py`)."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """What the storage knows of one trial."""

    study: str
    number: int
    state: str
    """running, frozen, complete, pruned, failed (or waiting)."""
    config: Mapping[str, Any]
    """Drawn and fixed values together."""
    val_accuracy: float | None
    """The score, by the metric of its task, at the last epoch if complete, else at the last epoch
    reported; in [0, 1]."""
    curve: Sequence[EpochRow]
    """One row per epoch; while a trial runs only `epoch` and `val_accuracy`."""
    failure: str | None
    seed: int
    started: datetime | None
    finished: datetime | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """wall_seconds, images_per_second, num_tuned_parameters, device, ...: told by the worker."""
    stop: Stop | None = None
    """How it was pruned, or frozen, if it was."""
    origin: str | None = None
    """Where its configuration comes from, if not from the plan's sampler alone."""
    trained_until: int | None = None
    """Where trials are frozen, of one that ended: the event of its study after which it trained no
    more. Those that wait in vain end together, long after."""
    freezes_and_thaws: Sequence[datetime] = ()
    """When it was frozen and went on, in turn, as far as that is known."""

    @property
    def in_work(self) -> list[tuple[datetime, datetime | None]]:
        """From when to when a worker had it; None: it still has."""
        if self.started is None:
            return []
        moments = [self.started, *self.freezes_and_thaws]
        ends = [*moments[1::2], self.finished] if len(moments) % 2 else moments[1::2]
        return list(zip(moments[::2], ends, strict=True))

    def val_images(self, task: TaskPlan) -> float:
        """On as many images an accuracy equal to the score is as sure."""
        return self.facts.get("val_effective_images", task.val_images)


optuna.logging.set_verbosity(optuna.logging.WARNING)


class Record:
    """Studies and trials of one sweep in an Optuna storage."""

    def __init__(self, plan: SweepPlan, storage_url: str) -> None:
        self.plan = plan
        self.storage_url = storage_url
        self._database = open_database(storage_url)
        self._storage = optuna.storages.get_storage(self._database)
        self._studies = {
            study.name: optuna.create_study(
                study_name=self._name_in_storage(study.name),
                storage=self._storage,
                direction=DIRECTION,
                pruner=plan.pruner.make(),
                load_if_exists=True,
            )
            for study in plan.studies
        }
        self._trial_ids: dict[tuple[str, int], int] = {}
        self._reported: dict[int, _Reported] = {}
        self._first_to_go_on: dict[str, int | None] = {}
        """Its number, by study; known until the next decision there."""
        self._order = Order(self._studies, over_all=plan.allocation == GAIN)
        for name, study in self._studies.items():
            self._refuse_another_plan(name, study)

    def ask(self, study: str, *, num_requests: int | None = None) -> TrialConfig:
        """A new trial of `study`, drawn by the plan's sampler and written as running.

        `num_requests`: of people, that the choice of the study followed; kept if it is given.
        """
        commit_point("before ask")
        trial = self._studies[study].ask()
        commit_point("after ask")
        trial_id = self._trial_id(study, trial.number)
        self._reported[trial_id] = _Reported(set(), Decision(), set())
        return self._draw(study, trial_id, trial.number, num_requests=num_requests)

    def interrupted(self) -> list[TrialConfig]:
        """Trials that were running when their driver ended, to be run again under their number.

        Those that were frozen wait on.
        """
        running = [
            (name, trial)
            for name, study in self._studies.items()
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if not is_frozen(trial)
        ]
        for _, trial in running:
            self._reported_of(trial._trial_id)  # shows the rungs of a decision that was cut off
        return [
            self._draw(name, trial._trial_id, trial.number, is_drawn="seed" in trial.user_attrs)
            for name, trial in running
        ]

    def report(
        self, study: str, number: int, rows: Iterable[EpochRow], *, finished: bool
    ) -> int | None:
        """Write the epochs; the epoch after which the pruner stops the trial, or None.

        An epoch that was reported before, by a run of the trial that was interrupted, is neither
        written nor judged again. After the last epoch of a finished trial nothing is left to prune.
        """
        trial_id = self._trial_id(study, number)
        rows = list(rows)
        told = self._reported_of(trial_id)
        unwritten: dict[int, float] = {}
        for row in rows:
            if "val_accuracy" not in row:
                continue  # an epoch that was not validated
            epoch = int(row["epoch"])
            if told.is_stopped_after(epoch):
                return epoch  # decided before, but the driver ended before tell
            if epoch not in told.epochs:
                unwritten[epoch] = row["val_accuracy"]
            last = finished and row is rows[-1]
            if last or epoch <= told.decision.epoch or not self.plan.pruner.asked_at(epoch):
                continue
            self._write_values(trial_id, unwritten)
            unwritten = {}
            told.decision = self._decide(study, trial_id, epoch, told.decision)
            if told.decision.stops:
                return epoch
        self._write_values(trial_id, unwritten)
        return None

    def complete(
        self, study: str, number: int, *, curve: Sequence[EpochRow], facts: Mapping[str, Any]
    ) -> None:
        """The trial ran to its last epoch; its value is the last epoch's score."""
        accuracy = curve[-1]["val_accuracy"]
        if not is_score(accuracy):
            self.fail(
                study,
                number,
                reason=f"val_accuracy {accuracy} is not in [0, 1]",
                curve=curve,
                facts=facts,
            )
            return
        self._end(study, number, TrialState.COMPLETE, curve, facts, value=accuracy)

    def prune(
        self, study: str, number: int, *, curve: Sequence[EpochRow], facts: Mapping[str, Any]
    ) -> None:
        """The pruner stopped the trial."""
        self._end(study, number, TrialState.PRUNED, curve, facts)

    def can_wait(self, study: str, number: int) -> bool:
        """Whether a trial that the pruner stopped is to be frozen. One without a score at its rung
        would wait in vain."""
        decision = self._reported_of(self._trial_id(study, number)).decision
        return self.plan.pruner.freezes and decision.stops and bool(decision.rungs)

    def freeze(
        self, study: str, number: int, *, curve: Sequence[EpochRow], facts: Mapping[str, Any]
    ) -> None:
        """The pruner stopped the trial, and it waits for its rank to say otherwise."""
        trial_id = self._trial_id(study, number)
        epoch = self._reported_of(trial_id).decision.epoch
        trial = self._storage.get_trial(trial_id)
        commit_point("before freeze")
        with self._order.numbered(study) as event:
            told = {"facts": dict(facts), "curve": as_columns(curve), **_now_too(trial)}
            told[FROZEN] = [*freezes_of(trial), (epoch, event)]
            write_trial(self._database, trial_id, user_attrs=told)
        self._reported.pop(trial_id, None)
        self._first_to_go_on.pop(study, None)
        commit_point("after freeze")

    def frozen(self, study: str) -> list[int]:
        """The trials of a study that wait, by number."""
        if not self.plan.pruner.freezes:
            return []
        return [trial.number for trial in self._running(study) if is_frozen(trial)]

    def only_frozen_left(self, study: str) -> bool:
        """Whether there are trials that wait, and none runs beside them."""
        running = self._running(study)
        return bool(running) and all(map(is_frozen, running))

    def first_to_go_on(self, study: str) -> int | None:
        """The trial that waits and that the pruner would let go on now; None: there is none."""
        if not self.plan.pruner.freezes:
            return None
        if study not in self._first_to_go_on:
            first = first_to_go_on(self._studies[study])
            self._first_to_go_on[study] = None if first is None else first.number
        return self._first_to_go_on[study]

    def go_on(self, study: str, number: int) -> TrialConfig:
        """The trial waits no longer: it is running again."""
        trial_id = self._trial_id(study, number)
        trial = self._storage.get_trial(trial_id)
        commit_point("before go on")
        with self._order.numbered(study) as event:
            told = [*thaws_of(trial), (rung_of(trial), event)]
            write_trial(self._database, trial_id, user_attrs={THAWED: told, **_now_too(trial)})
        self._first_to_go_on.pop(study, None)
        commit_point("after go on")
        return self._draw(study, trial_id, number, is_drawn=True)

    def seconds_before(self, study: str, number: int) -> float:
        """That its workers had spent on a trial when it was frozen last; 0 if it never was."""
        if not self.plan.pruner.freezes:
            return 0.0
        trial = self._storage.get_trial(self._trial_id(study, number))
        return trial.user_attrs["facts"].get("wall_seconds", 0.0) if thaws_of(trial) else 0.0

    def went_on_after(self, study: str, number: int) -> int:
        """The epoch after which it was frozen when it went on last; 0 if it never was."""
        if not self.plan.pruner.freezes:
            return 0
        thaws = thaws_of(self._storage.get_trial(self._trial_id(study, number)))
        return thaws[-1][0] if thaws else 0

    def prune_frozen(self, study: str, number: int) -> None:
        """The trial waited in vain: it is pruned as it was stopped."""
        trial = self._as_record(study, self._storage.get_trial(self._trial_id(study, number)))
        self._end(study, number, TrialState.PRUNED, trial.curve, trial.facts)

    def fail(
        self,
        study: str,
        number: int,
        *,
        reason: str,
        curve: Sequence[EpochRow] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """The trial cannot be finished; `reason` says why."""
        trial_id = self._trial_id(study, number)
        self._storage.set_trial_user_attr(trial_id, "failure", reason)
        self._end(study, number, TrialState.FAIL, curve, facts or {})

    def trials(self, study: str) -> list[TrialRecord]:
        """All trials of a study, by number."""
        return [self._as_record(study, trial) for trial in self._stored(study)]

    def trial(self, study: str, number: int) -> TrialRecord:
        return self._as_record(study, self._storage.get_trial(self._trial_id(study, number)))

    def all_trials(self) -> list[TrialRecord]:
        return list(self.each_trial())

    def each_trial(self) -> Iterator[TrialRecord]:
        """The same trials as `all_trials`, with the curves of one study at a time in memory."""
        for study in self._studies:
            yield from self.trials(study)

    def num_finished(self, study: str) -> int:
        return sum(trial.state.is_finished() for trial in self._stored(study))

    def num_asked(self, study: str) -> int:
        return len(self._stored(study))

    def best(self, study: str) -> TrialRecord | None:
        """The complete trial with the highest score, or None; see `best_of`."""
        fixed = self.plan.parsed_spaces[self.plan.study(study).space].fixed
        best = min(
            (trial for trial in self._stored(study) if trial.state is TrialState.COMPLETE),
            key=lambda t: _rank(t.value, {**fixed, **t.params}, t.number),
            default=None,
        )
        return best and self._as_record(study, best)

    def evidence(self, study: str) -> Evidence:
        """What the trials of a study that ended say of those to come."""
        ended = [trial for trial in self._stored(study) if trial.state.is_finished()]
        return evidence_of_trials(self.plan.task(self.plan.study(study).task), ended)

    def ended_early(self, study: str) -> EndedEarly | None:
        """Why a study gets no more trials, as it was decided last; None: it was not."""
        ends = self.ends_early(study)
        return ends[-1] if ends else None

    def ends_early(self, study: str) -> list[EndedEarly]:
        """In their order: of a study that people gave more to, there may be several."""
        told = self._studies[study].user_attrs.get(ENDED_EARLY, [])
        source = f"study {study}: {ENDED_EARLY}"
        if not isinstance(told, list):
            raise ValueError(f"{source}: expected a list, found {shown(told)}")
        return [read_as(EndedEarly, one, source=source) for one in told]

    def end_early(self, share: StudyShare, *, num_requests: int = 0) -> EndedEarly:
        """Write down that a study gets no more trials; people's requests that this followed."""
        study = share.name
        ended = EndedEarly(
            num_asked=share.num_asked,
            num_complete=share.evidence.num_complete,
            num_more=share.num_more,
            ceiling=share.ceiling,
            gain=share.gain_of_more,
            gain_error=share.gain_error,
            error=share.evidence.error,
            after_event=self._order.num_events(study),
            after_event_in_sweep=self._order.num_events_of_all(),
            num_requests=num_requests,
        )
        told = self._studies[study].user_attrs.get(ENDED_EARLY, [])
        self._studies[study].set_user_attr(ENDED_EARLY, [*told, asdict(ended)])
        return ended

    def accepted_versions(self) -> Mapping[str, str] | None:
        """The versions of the software that were accepted last; None: those of the plan."""
        study = next(iter(self._studies.values()))
        accepted = study.user_attrs.get("accepted_versions", [])
        return accepted[-1]["versions"] if accepted else None

    def accept_versions(self, versions: Mapping[str, str]) -> None:
        """Trials from now on run with other software than those before."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for study in self._studies.values():
            accepted = study.user_attrs.get("accepted_versions", [])
            entry = {"when": now, "trials_before": len(study.get_trials(False))}
            study.set_user_attr(
                "accepted_versions", [*accepted, {**entry, "versions": dict(versions)}]
            )

    @property
    def engine(self) -> sqlalchemy.Engine | None:
        """For tables of our own beside Optuna's; None: it is in memory, and no other process sees
        it."""
        return self._database.engine if isinstance(self._database, RDBStorage) else None

    def optuna_study(self, study: str) -> optuna.Study:
        """For Optuna's own plots and importances."""
        return self._studies[study]

    def _refuse_another_plan(self, name: str, study: optuna.Study) -> None:
        planned = _what_decides(self.plan, name)
        stored = study.user_attrs.get("plan")
        if stored is None:
            _name_values(study, f"val_{self.plan.objective(name).key}")
            study.set_user_attr("plan", planned)
            return
        if not isinstance(stored, Mapping):
            raise ValueError(f"study {name}: its plan in the storage is {shown(stored)}")
        later: dict[str, Any] = {"share_winners": False, "allocation": EQUAL}
        stored = {"metric": DEFAULT_METRIC, "also": None, **later, **stored}
        planned = {**later, **planned}
        planned = self._with_new_fields(planned)
        known = {key: value for key, value in planned.items() if key in stored}
        if changes := list(differences(self._with_new_fields(stored), known)):
            raise ValueError(
                f"study {name}: its trials were drawn from another plan than {PLAN_FILE} now says; "
                "start a new sweep for what changed:\n  " + "\n  ".join(changes)
            )

    def _with_new_fields(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """What an older version stored, with the defaults of fields that it did not have."""
        plan = self.plan
        if "pruner" in stored:
            stored = {**stored, "pruner": current_entry(stored["pruner"])}
        parts = {"backbone": plan.backbone, "pruner": plan.pruner, "engine": plan.engine}
        kept = {name: part for name, part in parts.items() if name in stored}
        return {**stored, **{name: {**_defaults(kept[name]), **stored[name]} for name in kept}}

    def _name_in_storage(self, study: str) -> str:
        # One database may hold many sweeps.
        return f"{self.plan.name}/{study}"

    def _stored(self, study: str) -> list[FrozenTrial]:
        return self._studies[study].get_trials(deepcopy=False)

    def _running(self, study: str) -> list[FrozenTrial]:
        return self._studies[study].get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _trial_id(self, study: str, number: int) -> int:
        key = (study, number)
        if key not in self._trial_ids:
            self._trial_ids[key] = id_of_trial(self._storage, self._studies[study], number)
        return self._trial_ids[key]

    def _draw(
        self,
        study: str,
        trial_id: int,
        number: int,
        *,
        is_drawn: bool = False,
        num_requests: int | None = None,
    ) -> TrialConfig:
        proposal = self._proposed(study, trial_id, number)
        if not is_drawn:
            followed = {} if num_requests is None else {REQUESTS_FOLLOWED: num_requests}
            self._write_proposal(study, trial_id, number, proposal, followed)
        return self.plan.trial_config(study, number, proposal.config)

    def _proposed(self, study: str, trial_id: int, number: int) -> Proposal:
        """What the trial is to be, by whatever the plan has draw it; nothing is written."""
        others = others_now(self._studies)
        return propose(self.plan, study, self._studies[study], trial_id, number, others)

    def _write_proposal(
        self,
        study: str,
        trial_id: int,
        number: int,
        drawn: Proposal,
        followed: Mapping[str, Any],
    ) -> None:
        told = {"origin": drawn.origin, SAW: drawn.saw}
        told = {name: value for name, value in told.items() if value is not None}
        seed = self.plan.trial_seed(study, number)
        with self._order.numbered_over_all(study, DRAWN, DRAWN_IN_SWEEP) as event:
            told = {**event, **followed, **told, "seed": seed}
            write_trial(self._database, trial_id, params=drawn.params, user_attrs=told)

    def _decide(self, study: str, trial_id: int, epoch: int, before: Decision) -> Decision:
        """Ask the pruner; what it says is written before the other trials can see the rung."""
        decision = decide(self.plan, self._studies[study], trial_id, epoch)
        with self._order.numbered(study) as event:
            decision = replace(decision, events=(*before.events, (epoch, event)))
            self._storage.set_trial_user_attr(trial_id, "decision", asdict(decision))
        commit_point("half decision")
        self._show_rungs(trial_id, decision, {})
        self._first_to_go_on.pop(study, None)
        commit_point("after decision")
        return decision

    def _show_rungs(self, trial_id: int, decision: Decision, shown: Mapping[str, Any]) -> None:
        new = {name: value for name, value in decision.rungs.items() if name not in shown}
        if new:
            write_trial(self._database, trial_id, system_attrs=new)

    def _reported_of(self, trial_id: int) -> "_Reported":
        """What was reported of a running trial: read once, since nobody else writes."""
        if trial_id not in self._reported:
            stored = self._storage.get_trial(trial_id)
            told = stored.user_attrs.get("decision", {})
            decision = read_as(Decision, told, source=f"the decision on trial #{stored.number}")
            self._show_rungs(trial_id, decision, stored.system_attrs)
            went_on = {epoch for epoch, _ in thaws_of(stored)}
            self._reported[trial_id] = _Reported(set(stored.intermediate_values), decision, went_on)
        return self._reported[trial_id]

    def _write_values(self, trial_id: int, values: Mapping[int, float]) -> None:
        if values:
            commit_point("before report")
            write_trial(self._database, trial_id, values=values)
            commit_point("after report")
            self._reported[trial_id].epochs.update(values)

    def _end(
        self,
        study: str,
        number: int,
        state: TrialState,
        curve: Sequence[EpochRow],
        facts: Mapping[str, Any],
        value: float | None = None,
    ) -> None:
        trial_id = self._trial_id(study, number)
        commit_point("before tell")
        told = {"facts": dict(facts), "curve": as_columns(curve)}
        if state is TrialState.PRUNED:
            value = curve[-1]["val_accuracy"]
        values = None if value is None else [value]
        with self._order.numbered_over_all(study, ENDED, ENDED_IN_SWEEP) as event:
            write_trial(self._database, trial_id, user_attrs={**told, **event})
            commit_point("half tell")
            self._storage.set_trial_state_values(trial_id, state, values)
        self._reported.pop(trial_id, None)
        self._first_to_go_on.pop(study, None)
        commit_point("after tell")

    def _as_record(self, study: str, trial: FrozenTrial) -> TrialRecord:
        space = self.plan.parsed_spaces[self.plan.study(study).space]
        refuse_other_facts(trial, space, source=f"study {study}")
        reported = trial.intermediate_values
        # What a driver wrote that died before it could tell the end does not count.
        waits = is_frozen(trial)
        ended = trial.user_attrs if trial.state.is_finished() or waits else {}
        curve = as_rows(ended.get("curve", {})) or [
            {"epoch": epoch, "val_accuracy": reported[epoch]} for epoch in sorted(reported)
        ]
        validated = [row["val_accuracy"] for row in curve if "val_accuracy" in row]
        last = validated[-1] if validated else None
        return TrialRecord(
            study=study,
            number=trial.number,
            state=FROZEN_STATE if waits else STATES[trial.state],
            config={**space.fixed, **trial.params},
            val_accuracy=trial.value if trial.state is TrialState.COMPLETE else last,
            curve=curve,
            failure=ended.get("failure") if trial.state is TrialState.FAIL else None,
            seed=self.plan.trial_seed(study, trial.number),
            started=trial.datetime_start,
            finished=trial.datetime_complete,
            facts=ended.get("facts", {}),
            stop=_stop_of(trial, study) if waits or trial.state is TrialState.PRUNED else None,
            origin=trial.user_attrs.get("origin"),
            trained_until=trained_until(trial) if self.plan.pruner.freezes else None,
            freezes_and_thaws=freezes_and_thaws_at(trial),
        )


def _name_values(study: optuna.Study, name: str) -> None:
    """For whoever looks at the storage with Optuna's own tools."""
    with warnings.catch_warnings():
        # It is marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([name])


def _now_too(trial: FrozenTrial) -> dict[str, Any]:
    """The moments at which a trial was frozen and went on, and this one."""
    before = trial.user_attrs.get(FREEZES_AND_THAWS_AT, [])
    return {FREEZES_AND_THAWS_AT: [*before, datetime.now().isoformat()]}


def _stop_of(trial: FrozenTrial, study: str) -> Stop | None:
    """How a pruned trial was stopped, as far as its storage says."""
    told, source = trial.user_attrs.get("decision"), f"study {study}: trial #{trial.number}"
    if told is None:
        return None
    decision = read_as(Decision, told, source=f"{source}: decision")
    return Stop(epoch=decision.epoch, against=decision.against) if decision.stops else None


@dataclass
class _Reported:
    """What stands in the storage about a running trial."""

    epochs: set[int]
    decision: Decision
    went_on: set[int]
    """Epochs after which it was stopped, and let go on later."""

    def is_stopped_after(self, epoch: int) -> bool:
        decision = self.decision
        return decision.stops and epoch == decision.epoch and epoch not in self.went_on


def open_record(plan: SweepPlan, folder: Path, storage_url: str | None = None) -> Record:
    """The record of a sweep folder, or of a storage elsewhere."""
    return Record(plan, storage_url or default_storage(folder))


def evidence_of_trials(task: TaskPlan, ended: Sequence[FrozenTrial]) -> Evidence:
    """`ended` are trials of one study on the task."""
    complete = [trial for trial in ended if trial.state is TrialState.COMPLETE]
    # Of ties the earliest: `ended` may be in any order, and their images may differ.
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
    images = task.val_images
    if best is not None:
        images = best.user_attrs.get("facts", {}).get("val_effective_images", images)
    return evidence_of(
        [trial.value or 0.0 for trial in complete],
        len(ended),
        standard_error(0.5 if best is None else best.value or 0.0, images),
    )


def best_of(trials: Iterable[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest last-epoch score.

    Ties, frequent with 200 validation images, go to the smaller learning rate as in the protocol
    of Jia et al. 2022, then to the earlier trial.
    """
    return min(
        (trial for trial in trials if trial.state == "complete"),
        key=lambda t: _rank(t.val_accuracy, t.config, t.number),
        default=None,
    )


def _rank(accuracy: float | None, config: Mapping[str, Any], number: int) -> tuple[float, ...]:
    return (-(accuracy or 0.0), config.get("lr", 0.0), number)


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """`name: was ..., is ...` for every value in which two nested mappings differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            below = f"{name}.{key}" if name else str(key)
            yield from differences(before.get(key), now.get(key), below)
    elif before != now:
        yield f"{name}: was {before!r}, is {now!r}"


def _defaults(part: Any) -> dict[str, Any]:
    """The defaults of the fields of a dataclass, where they have one."""
    return {f.name: f.default for f in fields(part) if f.default is not MISSING}


def _what_decides(plan: SweepPlan, name: str) -> dict[str, Any]:
    """All in the plan that the decisions and values of a study depend on, as JSON keeps it."""
    study = plan.study(name)
    backbone = asdict(plan.backbone)
    del backbone["weights"]  # the same file may lie elsewhere
    document = {
        "created": plan.created,
        "space": plan.spaces[study.space],
        "start_points": [asdict(point) for point in study.start_points],
        "seed": plan.seed,
        "sampler": plan.sampler,
        "also": plan.also and asdict(plan.also),
        "pruner": entry_of(plan.pruner),
        "backbone": backbone,
        "engine": asdict(plan.engine),
        "data_fingerprint": plan.task(study.task).fingerprint,
        "metric": plan.task(study.task).metric,
    }
    if plan.share_winners:
        document["share_winners"] = True
    if plan.allocation != EQUAL:
        document["allocation"] = plan.allocation
    return json.loads(json.dumps(document))
