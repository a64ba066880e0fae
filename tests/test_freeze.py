"""Freeze instead of stop: a trial that falls behind waits, and goes on when its rank says so."""

import itertools
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plans import make_plan, trial_facts
from test_simulated import EPOCHS as SIMULATED_EPOCHS
from test_simulated import made_up, planned

import orchestrator.record.record as record_module
from orchestrator.api.sweep import Sweep
from orchestrator.plan.expected_epochs import epochs_of_trials
from orchestrator.plan.plan import SweepPlan, plan_document, read_plan
from orchestrator.plan.pruners import Pruner
from orchestrator.plan.pruners.options import plan_pruner
from orchestrator.plan.space import SearchSpace
from orchestrator.record.database import IN_MEMORY, MemoryDatabase
from orchestrator.record.order import FREEZES_AND_THAWS_AT, THAWED, freezes_of, thaws_of
from orchestrator.record.owner import Driver
from orchestrator.record.record import Record
from orchestrator.record.replay import replayed
from orchestrator.record.requests import Request, Wish
from orchestrator.record.steering import sentences, unsteered
from orchestrator.report.collect import collect
from orchestrator.report.convergence import convergence
from orchestrator.report.sweep_state import sweep_state
from orchestrator.report.time_left import Pace
from orchestrator.run.doctor import _left_over
from orchestrator.run.progress import Progress
from orchestrator.run.queue import Failed, Finished, Report, Run
from orchestrator.run.search_queue import SearchQueue
from orchestrator.run.simulated import simulate

EPOCHS = 9
RUNGS = (1, 3)
FACTOR = 3

Score = Callable[[int, int], float]
"""Of a trial, by its number, after an epoch."""


def halving(*, freeze: bool = True, **options: int) -> Pruner:
    usual = {"first_rung_epochs": 1, "reduction_factor": FACTOR}
    return plan_pruner("successive_halving", {**usual, **options, "freeze": freeze})


def searched(num_trials: int = 14, *, freeze: bool = True, **options: Any) -> SweepPlan:
    plan = make_plan(num_trials=num_trials, epochs=EPOCHS, **options)
    return replace(plan, pruner=halving(freeze=freeze))


def made(seed: int) -> Score:
    """Curves that cross."""

    def score(number: int, epoch: int) -> float:
        chance = Random(f"{seed}/{number}")
        return round((chance.random() + chance.random() * epoch / EPOCHS) / 2, 2)

    return score


class Workers:
    """Train nothing, side by side, and answer in an order of chance."""

    def __init__(self, queue: SearchQueue, score: Score, *, slots: int = 1, seed: int = 0) -> None:
        self.queue, self.score, self.slots = queue, score, slots
        self.chance = Random(seed)
        self.at: dict[str, tuple[Run, int]] = {}
        self.names = map(str, itertools.count())
        self.begun: list[int] = []

    def run(self, num_steps: int = 10_000) -> None:
        for _ in range(num_steps):
            if not self.step():
                return

    def step(self) -> bool:
        while len(self.at) < self.slots:
            name = next(self.names)
            run = self.queue.next_run(name)
            if not isinstance(run, Run):
                break
            self.begun.append(run.config.number)
            self.at[name] = run, 0
        if not self.at:
            return False
        name = self.chance.choice(list(self.at))
        run, epoch = self.at[name]
        last = next(rung for rung in (*RUNGS, EPOCHS) if rung > epoch)
        number = run.config.number
        rows = [
            {"epoch": e, "val_accuracy": self.score(number, e), "train_seconds": 1.0,
             "eval_seconds": 0.0}
            for e in range(epoch + 1, last + 1)
        ]  # fmt: skip
        end = Finished() if last == EPOCHS else None
        self.at[name] = run, last
        if self.queue.reported(name, Report(rows=rows, facts=trial_facts(rows), end=end)):
            self.queue.forget(name)
            del self.at[name]
        return True


def queue_of(record: Record, folder: Path = Path("/nowhere"), *observers: Any) -> SearchQueue:
    return SearchQueue(record, folder, observers)


def search(plan: SweepPlan, score: Score, *, slots: int = 1, seed: int = 0) -> Workers:
    workers = Workers(queue_of(Record(plan, IN_MEMORY)), score, slots=slots, seed=seed)
    workers.run()
    return workers


def past(record: Record, rung: int) -> set[int]:
    """The trials that trained longer."""
    return {trial.number for trial in record.all_trials() if len(trial.curve) > rung}


def ends(record: Record) -> list[Any]:
    return [
        (t.number, t.state, t.config, t.val_accuracy, list(t.curve), t.stop)
        for t in record.all_trials()
    ]


def differences(record: Record) -> list[Any]:
    return [difference for study in replayed(record) for difference in study.differences]


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), slots=st.integers(1, 4))
@settings(deadline=None, max_examples=12)
def test_who_passes_the_first_rung_without_freezing_passes_it_with_it(seed: int, slots: int):
    """Whatever trials come there in whatever order; at the end the best third of every rung has
    passed it, and nothing is asked twice."""
    score = made(seed)
    stopped = search(searched(freeze=False), score).queue.record
    found = search(searched(), score)
    record = found.queue.record
    assert past(record, RUNGS[0]) >= past(stopped, RUNGS[0])
    assert [trial.state for trial in record.all_trials() if trial.state == "frozen"] == []
    assert record.num_asked(record.plan.studies[0].name) == len(set(found.begun)) == 14
    side_by_side = search(searched(), score, slots=slots, seed=seed).queue.record
    for one in (record, side_by_side):
        for rung in RUNGS:
            there = [t for t in one.all_trials() if len(t.curve) >= rung]
            scores = sorted((score(t.number, rung) for t in there), reverse=True)
            best = max(1, len(scores) // FACTOR)
            assert past(one, rung) >= {
                t.number for t in there if score(t.number, rung) >= scores[best - 1]
            }
        assert differences(one) == []


def test_one_that_falls_behind_goes_on_when_its_rank_says_so_before_a_new_one_begins():
    """Of nine trials the best three go on. #1 is behind #0 until there are six."""
    scores = [0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    plan = searched(len(scores))
    found = search(plan, lambda number, epoch: scores[number])
    assert found.begun == [0, 1, 2, 3, 4, 5, 1, 6, 7, 8]
    record = found.queue.record
    states = {trial.number: trial.state for trial in record.all_trials()}
    # At the second rung #1 is one of two, behind #0, and #8 the third of three: one goes on.
    assert [n for n, state in states.items() if state == "complete"] == [0]
    assert past(record, 1) == {0, 1, 8}
    stop = record.trial(plan.studies[0].name, 1).stop
    assert stop is not None and stop.epoch == 3
    assert stop.against is not None and stop.against.num_better == 1


def test_of_several_the_one_at_the_latest_rung_goes_first_and_there_the_best():
    scores = {0: 0.9, 1: 0.5, 2: 0.6, 3: 0.1, 4: 0.1, 5: 0.95, 6: 0.96}
    record = Record(searched(7), IN_MEMORY)
    study = record.plan.studies[0].name
    for number, score in scores.items():
        record.ask(study)
        if record.report(study, number, [{"epoch": 1, "val_accuracy": score}], finished=False):
            rows = [{"epoch": 1, "val_accuracy": score}]
            record.freeze(study, number, curve=rows, facts={})
    assert record.frozen(study) == [1, 2, 3, 4]
    assert record.first_to_go_on(study) is None  # the best two of seven are #6 and #5
    record = Record(searched(7), IN_MEMORY)
    for number, score in {0: 0.9, 1: 0.5, 2: 0.6, 3: 0.1, 4: 0.1, 5: 0.2}.items():
        record.ask(study)
        if record.report(study, number, [{"epoch": 1, "val_accuracy": score}], finished=False):
            rows = [{"epoch": 1, "val_accuracy": score}]
            record.freeze(study, number, curve=rows, facts={})
    assert record.first_to_go_on(study) == 2
    record.go_on(study, 2)
    assert record.first_to_go_on(study) is None
    assert record.frozen(study) == [1, 3, 4, 5]
    assert [config.number for config in record.interrupted()] == [0, 2]


class Killed(BaseException):
    """The driver is gone."""


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), kills=st.lists(st.integers(1, 60), min_size=1, max_size=6))
@example(seed=3, kills=[1] * 40)
@settings(deadline=None, max_examples=20)
def test_a_search_that_was_killed_anywhere_ends_as_if_it_had_not_been(seed: int, kills: list[int]):
    """One slot; trials whose checkpoint is gone begin again, as all do here."""
    plan, score = searched(9), made(seed)
    undisturbed = search(plan, score).queue.record
    database, left = MemoryDatabase(), iter(kills)  # which every driver opens
    to_kill = [next(left)]

    def commit_point(name: str) -> None:
        to_kill[0] -= 1
        if to_kill[0] == 0:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_module, "open_database", lambda _: database)
        patch.setattr(record_module, "commit_point", commit_point)
        while True:
            try:
                record = Record(plan, IN_MEMORY)
                Workers(queue_of(record), score).run()
                break
            except Killed:
                to_kill[0] = next(left, 10**9)
    assert ends(record) == ends(undisturbed)
    assert differences(record) == []


def test_a_frozen_trial_stays_so_over_a_stop_and_its_checkpoint_with_it(tmp_path: Path):
    plan = searched(6)
    study = plan.studies[0].name
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    scores = [0.9, 0.8, 0.1, 0.2, 0.3, 0.4]
    folder = tmp_path / "trials" / study
    folder.mkdir(parents=True)
    workers = Workers(queue_of(Record(plan, url), tmp_path / "trials"), lambda n, _: scores[n])
    while workers.queue.record.frozen(study) != [1, 2]:
        for number in range(6):
            (folder / f"{number}.checkpoint").touch()
        assert workers.step()
    record = Record(plan, url)
    assert {t.number: t.state for t in record.all_trials()} == {
        0: "complete",
        1: "frozen",
        2: "frozen",
    }
    shown = record.trial(study, 1)
    assert (len(shown.curve), shown.val_accuracy, shown.facts["wall_seconds"]) == (1, 0.8, 1.5)
    assert shown.stop is not None and shown.stop.against is not None
    assert record.interrupted() == []
    progress = Progress(plan, record)
    assert (progress.frozen, progress.num_running, progress.finished) == (2, 0, 1)
    assert progress.studies[study].not_begun == 3
    queue = queue_of(record, tmp_path / "trials", progress)
    left = {path.name for path in folder.iterdir()}
    assert left == {"1.checkpoint", "2.checkpoint"}
    assert _left_over(record, tmp_path) == []
    again = Workers(queue, lambda n, _: scores[n])
    again.run()
    assert again.begun == [3, 4, 5, 1]
    assert (progress.frozen, progress.finished) == (0, 6)
    assert list(folder.iterdir()) == []
    # Its workers' time is that of both its parts.
    assert record.trial(study, 1).facts["wall_seconds"] == 0.5 + 1 + 0.5 + 2
    assert differences(record) == []


def test_a_search_killed_before_it_could_prune_what_waits_in_vain_does_it_when_resumed(
    monkeypatch,
):
    plan, database = searched(3), MemoryDatabase()
    monkeypatch.setattr(record_module, "open_database", lambda _: database)
    workers = Workers(queue_of(Record(plan, IN_MEMORY)), lambda n, _: 0.9 - n / 10)
    monkeypatch.setattr(SearchQueue, "_settle_frozen", lambda queue: None)
    workers.run()
    record = Record(plan, IN_MEMORY)
    assert [trial.state for trial in record.all_trials()] == ["complete", "frozen", "frozen"]
    monkeypatch.undo()
    monkeypatch.setattr(record_module, "open_database", lambda _: database)
    queue = queue_of(Record(plan, IN_MEMORY))
    assert queue.num_left == 0
    assert [t.state for t in queue.record.all_trials()] == ["complete", "pruned", "pruned"]


def test_a_study_that_people_stop_has_its_frozen_trials_pruned():
    plan = searched(6, tasks=("caltech101", "svhn"))
    first, second = (study.name for study in plan.studies)
    watch: Any = SimpleNamespace(steering=unsteered(plan), look=lambda: None)
    record = Record(plan, IN_MEMORY)
    workers = Workers(SearchQueue(record, Path("/nowhere"), [], watch), lambda n, _: 0.9 - n / 10)
    while not (len(record.frozen(first)) == len(record.frozen(second)) == 2):
        assert workers.step()
    request = Request(
        number=1, wish=Wish(stop=(first,)), asked_by="anna on node-1",
        asked_at="2026-11-27T10:00:00+00:00",
    )  # fmt: skip
    watch.steering = watch.steering.after(plan, request)
    assert workers.queue.num_left
    assert record.frozen(first) == []
    assert [t.state for t in record.trials(first)][1:3] == ["pruned", "pruned"]
    assert len(record.frozen(second)) == 2
    workers.run()
    assert {t.state for t in record.all_trials()} <= {"complete", "pruned"}
    assert record.num_finished(second) == 6


def test_a_stop_prunes_a_frozen_trial_that_could_go_on():
    """At the moment in which #1 may go on, and before it is handed out."""
    scores = [0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    plan = searched(len(scores))
    study = plan.studies[0].name
    watch: Any = SimpleNamespace(steering=unsteered(plan), look=lambda: None)
    record = Record(plan, IN_MEMORY)
    workers = Workers(SearchQueue(record, Path("/nowhere"), [], watch), lambda n, _: scores[n])
    while record.first_to_go_on(study) is None:
        assert workers.step()
    assert record.first_to_go_on(study) == 1
    request = Request(
        number=1, wish=Wish(stop=(study,)), asked_by="anna on node-1",
        asked_at="2026-11-27T10:00:00+00:00",
    )  # fmt: skip
    (line,) = sentences(plan, watch.steering, request)
    assert "those that are frozen are pruned for good" in line
    assert "frozen" not in sentences(searched(freeze=False), watch.steering, request)[0]
    watch.steering = watch.steering.after(plan, request)
    assert workers.queue.num_left == 0
    assert record.frozen(study) == []
    assert record.trial(study, 1).state == "pruned"


def test_who_goes_on_next_is_asked_again_after_every_decision():
    """The sixth decision makes #1 one of the best two of six."""
    record = Record(searched(6), IN_MEMORY)
    study = record.plan.studies[0].name
    for number, score in enumerate([0.9, 0.8, 0.1, 0.2, 0.3, 0.4]):
        record.ask(study)
        assert record.first_to_go_on(study) is None
        rows = [{"epoch": 1, "val_accuracy": score}]
        if record.report(study, number, rows, finished=False) and number < 5:
            record.freeze(study, number, curve=rows, facts={})
    assert record.first_to_go_on(study) == 1


def test_what_is_left_are_all_frozen_trials_as_long_as_some_may_go_on():
    scores = [0.9, 0.8, 0.1, 0.2, 0.3, 0.4]
    plan = searched(len(scores))
    study = plan.studies[0].name
    queue = queue_of(Record(plan, IN_MEMORY))
    workers = Workers(queue, lambda n, _: scores[n])
    left = [queue.num_left]
    while workers.step():
        waiting, asked = queue.record.frozen(study), queue.record.num_asked(study)
        left.append(queue.num_left)
        assert left[-1] == len(waiting) + len(scores) - asked
    # The sixth lets #1 go on: five wait, and any of them may be next; at last none is left.
    assert max(len(left) - 1 - left[::-1].index(n) for n in left if n == 5) > 6
    assert left[-1] == 0 and queue.next_run("last") == "finished"


@pytest.mark.parametrize("end", [Finished(), Failed("a surprise", "unexpected")])
def test_a_slot_waits_while_another_trains_what_frozen_trials_wait_for_and_not_longer(
    end: Finished | Failed,
):
    scores = [0.9, 0.8, 0.7]
    plan = searched(len(scores))
    queue = queue_of(Record(plan, IN_MEMORY))

    def report(number: int, first: int, last: int) -> bool:
        rows: Any = [
            {"epoch": e, "val_accuracy": scores[number], "train_seconds": 1.0, "eval_seconds": 0.0}
            for e in range(first, last + 1)
        ]
        told = Report(rows=rows, facts=trial_facts(rows), end=end if last == EPOCHS else None)
        return queue.reported(str(number), told)

    assert all(isinstance(queue.next_run(str(number)), Run) for number in range(3))
    assert [report(number, 1, 1) for number in range(3)] == [False, True, True]
    for number in (1, 2):
        queue.forget(str(number))
    assert queue.num_left == 2 and queue.next_run("idle") is None
    assert report(0, 2, EPOCHS)
    assert queue.num_left == 0 and queue.next_run("idle") == "finished"
    assert [trial.state for trial in queue.record.all_trials()][1:] == ["pruned", "pruned"]


LOSERS = [0.9, *(0.1 + number / 1000 for number in range(11))]
"""The first is the best of all, and no other goes on before the last."""


def test_losers_that_wait_in_vain_end_for_the_report_when_they_are_frozen():
    plan = searched(len(LOSERS))
    record = search(plan, lambda n, _: LOSERS[n] if n < 6 else LOSERS[n] - 0.05).queue.record
    (study,) = collect(plan, record).studies
    # By their ends all that were pruned while they waited come last.
    events = [trial.trained_until for trial in study.finished]
    assert None not in events and events == sorted(event for event in events if event is not None)
    assert study.finished[0].number == 0
    late = search(plan, lambda n, _: 0.95 if n == 11 else LOSERS[n]).queue.record
    (study,) = collect(plan, late).studies
    assert study.best is not None and study.best.number == 11
    found = convergence(study)
    assert (found.verdict, found.short) == ("not converged", "no")


def test_for_the_report_a_trial_that_waits_is_not_in_work():
    plan = searched(len(LOSERS))
    record = search(plan, lambda n, _: LOSERS[n]).queue.record
    report = collect(plan, record)
    assert report.num_slots == 1
    for trial in record.all_trials():
        stored = record.optuna_study(trial.study).get_trials()[trial.number]
        moments = [moment for begin, end in trial.in_work for moment in (begin, end)]
        assert None not in moments and moments == sorted(m for m in moments if m)
        assert len(trial.in_work) == 1 + len(thaws_of(stored))
    _change(record, 1, FREEZES_AND_THAWS_AT, ["yesterday"])
    with pytest.raises(ValueError, match=r"#1: frozen_and_thawed_at: expected moments"):
        record.trial(plan.studies[0].name, 1)


def test_the_time_left_counts_a_frozen_trial_as_one_that_was_stopped():
    """Until it goes on; then as one that runs, and what it took before is not counted twice."""
    plan = searched(20)
    study = plan.studies[0].name
    progress = Progress(plan, Record(plan, IN_MEMORY))
    scores = [0.9, 0.8, 0.1, 0.2, 0.3, 0.4, *[0.05] * 14]
    queue = queue_of(Record(plan, IN_MEMORY), Path("/nowhere"), progress)
    workers = Workers(queue, lambda n, _: scores[n])
    while len(queue.record.frozen(study)) < 4:
        assert workers.step()

    def left(pace: Pace, seconds: float) -> float | None:
        running, begin = {study: {5: 0}}, {study: 14}
        return pace.seconds_left(running, begin, worker_seconds=seconds, in_seconds=100)

    pace, seconds = Pace(plan), 0.0
    for trial in queue.record.all_trials():
        state = "pruned" if trial.state == "frozen" else trial.state
        seconds += pace.trial_ended(replace(trial, state=state))
    expected = left(pace, seconds)
    assert expected and left(progress._pace, progress._worker_seconds) == expected
    resumed = Progress(plan, queue.record)._pace
    assert left(resumed, seconds) == expected

    while queue.record.frozen(study):
        assert workers.step()
    assert workers.begun.count(1) == 3  # it went on at both rungs
    trials = queue.record.all_trials()
    assert progress._worker_seconds == sum(t.facts["wall_seconds"] for t in trials)
    whole = Pace(plan)
    for trial in trials:
        whole.trial_ended(trial)
    assert progress._pace._ends["vpt_deep"] - whole._ends["vpt_deep"] == Counter()
    for name, cost in whole._costs.items():
        assert progress._pace._costs[name].epochs == cost.epochs


def test_status_and_driver_agree_on_what_has_not_begun_and_on_the_time_left(monkeypatch):
    plan = searched(30)
    record = Record(plan, IN_MEMORY)
    study = plan.studies[0].name
    workers = Workers(queue_of(record), lambda n, _: 0.9 - n / 100)
    while len(record.frozen(study)) < 8 or workers.at:
        assert workers.step()
    begun: list[Any] = []
    left = Pace.seconds_left

    def heard(pace: Pace, running: Any, not_begun: Any, **times: Any) -> float | None:
        begun.append((dict(not_begun), times["worker_seconds"]))
        return left(pace, running, not_begun, **times)

    monkeypatch.setattr(Pace, "seconds_left", heard)
    assert isinstance(workers.queue.next_run("next"), Run)
    driver = Driver(who="process 7", since=datetime.now(UTC))
    state = sweep_state(plan, record.all_trials(), driver, sees_driver=True)
    progress = Progress(plan, record)
    ((not_begun, seconds),) = begun
    assert state.left is not None
    shown = progress.studies[study]
    shown.running.update(state.running[study])
    assert not_begun == {study: shown.not_begun}
    ran = [t.facts["wall_seconds"] for t in record.all_trials() if t.state != "running"]
    assert seconds == sum(ran)


def test_that_a_trial_goes_on_is_said_and_to_its_worker_too(caplog):
    scores = [0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.5]
    plan = searched(len(scores))
    with caplog.at_level(logging.INFO):
        workers = Workers(queue_of(Record(plan, IN_MEMORY)), lambda n, _: scores[n])
        runs = []
        while workers.step():
            runs += [run for run, _ in workers.at.values() if run.goes_on_after]
    assert {(run.config.number, run.goes_on_after) for run in runs} == {(1, 1)}
    assert f"{plan.studies[0].name} #1 goes on after epoch 1" in caplog.text


def test_a_trial_without_a_score_at_its_rung_is_pruned_at_once():
    record = Record(searched(3), IN_MEMORY)
    study = record.plan.studies[0].name
    record.ask(study)
    rows = [{"epoch": 1, "val_accuracy": float("nan")}]
    assert record.report(study, 0, rows, finished=False) == 1
    assert not record.can_wait(study, 0)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_samplers_see_what_waits_as_they_see_what_was_stopped(sampler: str):
    """As long as none goes on, the search draws what it would draw without freezing."""
    configs = []
    for freeze in (False, True):
        plan = replace(
            searched(24, sampler=sampler), pruner=halving(freeze=freeze, reduction_factor=25)
        )
        workers = search(plan, made(5))
        configs.append([trial.config for trial in workers.queue.record.all_trials()])
        assert workers.begun == list(range(24))
    assert configs[0] == configs[1]


def test_one_that_was_passed_over_or_went_too_early_is_found_by_replay():
    scores = [0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.5]
    record = search(searched(len(scores)), lambda n, _: scores[n]).queue.record
    name = record.plan.studies[0].name
    assert differences(record) == []
    study = record.optuna_study(name)
    one = study.get_trials()[1]
    (epoch, _), *_ = freezes_of(one)
    ((_, thawed),) = thaws_of(one)
    other = study.get_trials()[2]
    _change(record, other.number, THAWED, [(epoch, thawed)])
    _change(record, one.number, THAWED, [])
    found = differences(record)[0]
    assert (found.trial, found.what, found.stored, found.derived) == (2, "goes on", "#2", "#1")


def _change(record: Record, number: int, name: str, value: Any) -> None:
    """As somebody does who writes into the database: Optuna changes nothing that has ended."""
    storage = record._database
    assert isinstance(storage, MemoryDatabase)
    trial_id = record._trial_id(record.plan.studies[0].name, number)
    storage._get_trial(trial_id).user_attrs[name] = value


def test_off_a_plan_says_what_it_said_before_and_on_it_is_read_as_written():
    off, on = searched(freeze=False), searched()
    assert "freeze" not in plan_document(off)["pruner"]
    assert plan_document(on)["pruner"]["freeze"] is True
    for plan in (off, on):
        assert read_plan(plan_document(plan), source="sweep.yaml").pruner == plan.pruner
    stored = Record(off, IN_MEMORY).optuna_study(off.studies[0].name).user_attrs["plan"]
    assert "freeze" not in stored["pruner"]


def test_a_storage_of_a_sweep_without_it_is_of_another_plan(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    Record(searched(freeze=False), url)
    Record(searched(freeze=False), url)
    with pytest.raises(ValueError, match=r"pruner\.freeze: was False, is True"):
        Record(searched(), url)


def test_only_successive_halving_has_it():
    with pytest.raises(ValueError, match="--freeze is no option of the pruner median"):
        plan_pruner("median", {"freeze": True})


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), slots=st.integers(1, 4))
@settings(deadline=None, max_examples=6)
def test_a_simulated_trial_goes_on_after_the_epoch_in_which_it_was_frozen(seed: int, slots: int):
    curves = made_up(14, tasks=("digits", "flowers"), seed=seed)
    plan = replace(planned(curves), pruner=halving(first_rung_epochs=2))
    found = list(simulate(plan, curves, num_slots=slots))
    assert len({(end.trial.study, end.trial.number) for end in found}) == len(found) == 28
    for study in plan.studies:
        own = [end for end in found if end.trial.study == study.name]
        # No epoch is trained twice.
        assert max(end.study_epochs for end in own) == sum(len(end.trial.curve) for end in own)
        for end in own:
            epochs = [row["epoch"] for row in end.trial.curve]
            assert epochs == list(range(1, len(epochs) + 1))
            assert len(epochs) == SIMULATED_EPOCHS or end.trial.state == "pruned"
    times = [end.at_seconds for end in found]
    assert times == sorted(times)
    order = Counter(len(end.trial.curve) for end in found)
    assert order[2] and order[SIMULATED_EPOCHS]


@pytest.mark.slow
def test_a_real_trial_that_was_frozen_ends_as_one_that_nothing_stopped(
    tmp_path: Path, monkeypatch, caplog
):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    space = SearchSpace.of(
        {
            "method": "vpt",
            "fixed": {"deep": True, "dropout": 0.1, "num_tokens": 2, "batch_size": 256},
            "search": {"lr": {"low": 1e-7, "high": 0.2, "log": True}},
        },
        name="short",
    )
    options = {"first_rung_epochs": 2, "reduction_factor": 2}

    def swept(name: str, **chosen: Any) -> Sweep:
        sweep = Sweep.plan(
            "quickstart",
            tasks=["digits"],
            methods=[space],
            trials=4,
            epochs=3,
            sampler="random",
            seed=361,  # which draws the rates 0.12, 0.03 and two that learn nothing
            precision="fp32",
            out=tmp_path / name,
            **chosen,
        )
        with caplog.at_level(logging.INFO):
            sweep.run(engine="local")
        return Sweep.open(tmp_path / name)

    freezing = swept("freezing", pruner_options={**options, "freeze": True})
    assert "#1 seed" in caplog.text and "goes on after epoch 2" in caplog.text
    whole = swept("whole", pruner="none")
    (study,) = freezing.frozen_plan.studies
    stored = freezing.record.optuna_study(study.name).get_trials()
    went_on = [trial.number for trial in stored if thaws_of(trial)]
    assert went_on == [1]
    curve = freezing.record.trial(study.name, 1).curve
    assert len(curve) == 3
    assert _untimed(curve) == _untimed(whole.record.trial(study.name, 1).curve)
    assert [trial.state for trial in freezing.trials()] == ["complete"] * 2 + ["pruned"] * 2
    assert not list((tmp_path / "freezing").rglob("*.checkpoint"))
    assert [found.differences for found in freezing.replay()] == [()]


def _untimed(rows: Any) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(deadline=None, max_examples=10)
def test_the_forecast_counts_the_epochs_of_trials_that_go_on_later(seed: int, slots: int):
    chance = Random(seed)
    curves = [(chance.random(), chance.random()) for _ in range(20)]
    asked: dict[str, Any] = {
        "epochs": EPOCHS, "num_trials": 20, "side_by_side": slots, "eval_every": 1, "seed": seed,
    }  # fmt: skip
    stopped, found = (
        epochs_of_trials(halving(freeze=freeze), curves, **asked) for freeze in (False, True)
    )
    assert set(found) <= {*RUNGS, EPOCHS}
    assert sum(epochs > RUNGS[0] for epochs in found) >= len(found) // FACTOR
    if slots == 1:
        assert sum(e > RUNGS[0] for e in found) >= sum(e > RUNGS[0] for e in stopped)
