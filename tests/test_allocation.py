"""Studies that share the trials of a sweep: what is expected of more of them, and who gets them."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import create_trial
from plans import SPACES, curve_to, make_plan, make_record, trial_facts
from suites import write_pictures

from orchestrator.api.steering import refuse_over
from orchestrator.plan.allocation import (
    CEILING,
    LEAST_COMPLETE,
    LEAST_TRIALS,
    EndedEarly,
    Evidence,
    Shares,
    StudyShare,
    evidence_of,
    expected_gain,
    tail_scale,
)
from orchestrator.plan.asked import look_at
from orchestrator.plan.plan import SweepPlan, plan_document, read_plan
from orchestrator.plan.request import SweepRequest
from orchestrator.record.database import IN_MEMORY
from orchestrator.record.order import DRAWN_IN_SWEEP
from orchestrator.record.record import (
    ENDED_EARLY,
    REQUESTS_FOLLOWED,
    Record,
    evidence_of_trials,
)
from orchestrator.record.replay import replayed
from orchestrator.record.requests import Wish, ask
from orchestrator.record.steering import plan_now
from orchestrator.report.summary import summary_table
from orchestrator.run.queue import Finished, Report, Run
from orchestrator.run.search_queue import SearchQueue
from orchestrator.run.steering_watch import SteeringWatch

NUM_TRIALS = 12
SPREAD = {"caltech101.linear": 0.0, "svhn.linear": 0.5, "eurosat.linear": 0.02}
"""Of the scores of each study: one is flat, one improves, one does a little."""
FLAT, IMPROVES, _ = SPREAD

scores = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=30)


def gain(values: list[float], num_more: int, num_ended: int | None = None) -> float:
    num_ended = num_ended or len(values)
    return expected_gain(tail_scale(values, num_ended), num_ended, num_more)


@given(scores, st.integers(0, 50), st.integers(0, 50))
def test_more_trials_are_never_expected_to_lose_and_each_gains_less_than_the_one_before(
    values: list[float], num_more: int, further: int
):
    assert 0 <= gain(values, num_more) <= gain(values, num_more + further) + 1e-12
    first, both = gain(values, num_more), gain(values, 2 * num_more)
    assert both - first <= first + 1e-12


@given(scores, st.floats(-1, 1), st.floats(0, 10), st.randoms(use_true_random=False))
def test_what_is_expected_moves_and_stretches_with_the_scores(
    values: list[float], shift: float, stretch: float, chance: Random
):
    expected = gain(values, 10)
    assert gain([value + shift for value in values], 10) == pytest.approx(expected, abs=1e-9)
    stretched = gain([stretch * value for value in values], 10)
    assert stretched == pytest.approx(stretch * expected, abs=1e-9)
    assert gain(chance.sample(values, len(values)), 10) == pytest.approx(expected, abs=1e-12)


@given(st.floats(0, 1), st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 100))
def test_the_longer_a_study_was_searched_the_less_more_trials_gain(
    scale: float, before: int, further: int, num_more: int
):
    later = expected_gain(scale, before + further, num_more)
    assert later <= expected_gain(scale, before, num_more) + 1e-12


@given(st.floats(0, 1), st.integers(1, 30), st.integers(0, 30))
def test_nothing_is_expected_of_flat_scores(value: float, num_complete: int, num_pruned: int):
    assert gain([value] * num_complete, 100, num_complete + num_pruned) == 0
    assert tail_scale([], num_pruned) == 0


@pytest.mark.parametrize("num_trials", [6, 15, 30])
@pytest.mark.parametrize("share_complete", [1.0, 0.5])
def test_with_an_exponential_tail_it_is_what_more_trials_gain_on_average(
    num_trials: int, share_complete: float
):
    chance, num_more = np.random.default_rng(0), 30
    drawn = chance.exponential(0.03, (60_000, num_trials + num_more))
    found = drawn.max(axis=1) - drawn[:, :num_trials].max(axis=1)
    # Those that are pruned are not among the best.
    num_complete = int(share_complete * num_trials)
    complete = np.sort(drawn[:4000, :num_trials])[:, -num_complete:]
    expected = [gain(list(one), num_more, num_trials) for one in complete]
    assert np.mean(expected) == pytest.approx(found.mean(), rel=0.04)
    # Scores end somewhere: then it is too much rather than too little.
    uniform = [chance.uniform(0, 1, num_trials + num_more) for _ in range(4000)]
    promised = np.mean([gain(list(one[:num_trials]), num_more) for one in uniform])
    assert promised >= np.mean([one.max() - one[:num_trials].max() for one in uniform])


@settings(deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 100), min_size=2, max_size=6), st.data())
def test_every_study_gets_its_floor_none_more_than_its_ceiling_and_all_together_the_total(
    share: int, most: list[int], data: st.DataObject
):
    studies = {
        str(place): StudyShare(
            name=str(place), share=min(share, room), most=room, num_asked=0, evidence=Evidence()
        )
        for place, room in enumerate(most)
    }
    total = sum(study.share for study in studies.values())
    numbers = Random(data.draw(st.integers(0, 10**6)))
    for _ in range(total + 1):
        shares = Shares(list(studies.values()))
        planned = shares.num_trials()
        assert sum(planned.values()) == shares.num_left + sum(
            study.num_asked for study in studies.values()
        )
        assert all(s.num_asked <= planned[s.name] <= s.ceiling for s in shares.studies)
        chosen = shares.next_studies()
        assert bool(chosen) == bool(shares.num_left)
        if not chosen:
            break
        study = numbers.choice(chosen)
        begun = study.num_asked + 1
        values = [numbers.uniform(0, float(study.name) / 5) for _ in range(begun)]
        evidence = evidence_of(values, begun, 0.03)
        studies[study.name] = replace(study, num_asked=begun, evidence=evidence)
    assert sum(study.num_asked for study in studies.values()) == total
    assert all(study.floor <= study.num_asked <= study.ceiling for study in studies.values())
    assert all(study.num_asked <= study.most for study in studies.values())


def of(name: str, num_asked: int, scores: list[float] | None = None, **others) -> StudyShare:
    """A study with a share of 20 all of whose trials are complete, or those with `scores` alone."""
    scores = [0.5] * num_asked if scores is None else scores
    evidence = evidence_of(scores, num_asked, 0.03)
    told = {"share": 20, "most": 1000, "evidence": evidence, **others}
    return StudyShare(name=name, num_asked=num_asked, **told)


def an_end(ceiling: int = 40) -> EndedEarly:
    return EndedEarly(
        num_asked=10,
        num_complete=10,
        num_more=20,
        ceiling=ceiling,
        gain=0.0,
        gain_error=0.0,
        error=0.03,
        after_event=20,
        after_event_in_sweep=40,
    )


@pytest.mark.parametrize("num_complete", range(LEAST_COMPLETE))
def test_a_study_with_few_complete_trials_neither_ends_nor_starves_nor_gets_beyond_its_share(
    num_complete: int,
):
    few = of("few", 15, [0.5] * num_complete)
    assert not few.ends_now and of("enough", 15, [0.5] * LEAST_COMPLETE).ends_now
    improves = of("improves", 18, [i / 100 for i in range(18)])
    flat = of("flat", 16)
    assert Shares([few, improves]).next_studies() == [few], "it is an average one, with fewer"
    assert Shares([few, flat, improves]).next_gain(few) > 0
    assert not of("few", 20, [0.5] * num_complete).is_open
    assert of("enough", 20, [0.5, 0.6, 0.7, 0.8]).is_open


def test_a_study_ends_by_what_its_error_leaves_small():
    step, steps = 0.01, range(4)
    scores = [0.5 + step * i for i in steps]
    study = of("some", 12, scores)
    evidence = replace(study.evidence, error=3 * study.gain_of_more)
    assert 2 * study.gain_of_more < evidence.error, "what is expected is small by itself"
    assert not replace(study, evidence=evidence).ends_now, "with its error it is not"
    assert replace(study, evidence=replace(evidence, error=4 * study.gain_of_more)).ends_now


def test_a_study_that_is_to_go_on_gets_its_share_though_the_others_had_it():
    other = of("other", 30, [i / 100 for i in range(30)])
    ended = of("ended", 10, ended=an_end())
    assert Shares([other, ended]).num_left == 0
    goes_on = replace(ended, must_go_on=True)
    while (shares := Shares([other, goes_on])).num_left:
        assert shares.num_trials() == {"other": 30, "ended": 20}
        assert shares.next_studies() == [goes_on]
        goes_on = replace(goes_on, num_asked=goes_on.num_asked + 1)
    assert goes_on.num_asked == 20


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.booleans(), st.booleans(), st.booleans()),
        min_size=2,
        max_size=5,
    ),
    st.data(),
)
def test_a_stop_never_enlarges_what_is_left_and_takes_nothing_back_from_others(
    told: list[tuple[int, bool, bool, bool]], data: st.DataObject
):
    studies = [
        of(
            str(place),
            num_asked,
            ended=an_end() if has_ended else None,
            must_go_on=must_go_on and not is_stopped,  # the request that came last holds
            is_stopped=is_stopped,
        )
        for place, (num_asked, has_ended, must_go_on, is_stopped) in enumerate(told)
    ]
    place = data.draw(st.integers(0, len(studies) - 1))
    before, study = Shares(studies), studies[place]
    stop = replace(study, is_stopped=True, must_go_on=False)
    after = Shares([*studies[:place], stop, *studies[place + 1 :]])
    assert after.total <= before.total and after.num_left <= before.num_left
    if study.stays_ended and not study.is_stopped:
        assert after.total == before.total and after.num_left == before.num_left
    planned = after.num_trials()
    assert sum(planned.values()) == after.num_left + sum(s.num_asked for s in after.studies)


def test_of_tied_trials_the_images_of_the_earliest_count_in_whatever_order_they_ended():
    plan = shared_plan()
    task = plan.task("svhn")

    def trial(number: int, images: int):
        found = create_trial(value=0.5, user_attrs={"facts": {"val_effective_images": images}})
        found.number = number
        return found

    tied = [trial(0, 50), trial(1, 200), trial(2, 100)]
    expected = evidence_of_trials(task, tied)
    assert evidence_of_trials(task, tied[::-1]) == expected
    assert expected.error == pytest.approx(evidence_of_trials(task, tied[:1]).error)


def shared_plan(num_trials: int = NUM_TRIALS, pruner: str = "none") -> SweepPlan:
    plan = make_plan(
        tasks=("caltech101", "svhn", "eurosat"),
        spaces=("linear",),
        num_trials=num_trials,
        pruner=pruner,
        first_rung_epochs=1,
    )
    return replace(plan, allocation="gain")


class Search:
    """One slot; the scores of a trial follow from its study and number."""

    def __init__(
        self, plan: SweepPlan, url: str, *, steered: bool = False, observers: Sequence[Any] = ()
    ) -> None:
        self.plan, self.url, self.steered, self.observers = plan, url, steered, observers
        self.resume()

    def resume(self) -> None:
        """As a new driver does."""
        self.record = Record(self.plan, self.url)
        watch = SteeringWatch(self.record, num_slots=1) if self.steered else None
        self.queue = SearchQueue(self.record, Path("/nowhere"), self.observers, watch)
        self.watch = watch

    def begin(self) -> Run | None:
        run = self.queue.next_run("one")
        assert run is not None
        return None if run == "finished" else run

    def step(self) -> str | None:
        """The study of a trial that was begun and has ended; None: none is left."""
        run = self.begin()
        if run is None:
            return None
        study, number = run.config.study, run.config.number
        height = 0.4 + SPREAD[study] * Random(f"{study}/{number}").random()
        rows = curve_to(height, 4)
        assert self.queue.reported(
            "one", Report(rows=rows, facts=trial_facts(rows), end=Finished())
        )
        self.queue.forget("one")
        return study

    def run(self) -> dict[str, int]:
        while self.step():
            pass
        return self.numbers

    @property
    def numbers(self) -> dict[str, int]:
        return {study.name: self.record.num_asked(study.name) for study in self.plan.studies}


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


def test_a_flat_study_ends_and_its_trials_go_to_one_that_improves(caplog):
    search = Search(shared_plan(), IN_MEMORY)
    with caplog.at_level(logging.WARNING):
        numbers = search.run()
    assert numbers[FLAT] == NUM_TRIALS // 2
    assert NUM_TRIALS < numbers[IMPROVES] <= CEILING * NUM_TRIALS
    assert sum(numbers.values()) <= 3 * NUM_TRIALS
    told = (
        "ended after 6 trials: 12 more are expected to gain 0.0 ± 0.0 points, "
        "small against the noise of its validation split (± 3.5)"
    )
    assert f"{FLAT}: {told}" in caplog.messages
    now = plan_now(search.plan, search.record)
    assert {study.name: study.num_trials for study in now.studies} == numbers
    rows = {row.study: row.ended for row in summary_table(now, search.record)}
    assert rows[FLAT] == told and rows[IMPROVES] is None
    with pytest.raises(ValueError, match="its search is over"):
        refuse_over(search.plan, search.record)


def test_who_watches_a_sweep_hears_each_time_how_many_trials_its_studies_are_to_have():
    heard: list[dict[str, int]] = []

    class Listener:
        def steered(self, steering: Any, num_trials: Mapping[str, int]) -> None:
            heard.append(dict(num_trials))

        def __getattr__(self, event: str) -> Callable[..., None]:
            return lambda *told: None

    numbers = Search(shared_plan(), IN_MEMORY, observers=[Listener()]).run()
    assert heard[-1] == numbers != heard[0]
    assert all(one != other for one, other in pairwise(heard)), "nothing is told twice"


def test_the_total_stays_while_a_sweep_runs():
    plan = shared_plan()
    search = Search(plan, IN_MEMORY)
    seen = []
    while search.step():
        seen.append(plan_now(plan, search.record).num_trials)
    assert seen[:NUM_TRIALS] == [plan.num_trials] * NUM_TRIALS
    assert seen == sorted(seen, reverse=True)


@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(1, 12), max_size=4), st.booleans())
@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path_factory, kills: list[int], amid_a_trial: bool
):
    undisturbed = Search(shared_plan(), IN_MEMORY)
    expected = undisturbed.run()
    search = Search(shared_plan(), url_of(tmp_path_factory.mktemp("killed")))
    for steps in kills:
        for _ in range(steps):
            search.step()
        if amid_a_trial:
            search.begin()
        search.resume()
    assert search.run() == expected
    for study in expected:
        assert search.record.ends_early(study) == undisturbed.record.ends_early(study)
    assert not any(study.differences for study in replayed(search.record))


@pytest.mark.parametrize("pruner", ["none", "successive_halving"])
def test_every_choice_follows_from_the_storage(pruner: str):
    search = Search(shared_plan(pruner=pruner), IN_MEMORY)
    numbers = search.run()
    found = replayed(search.record)
    ends = sum(len(search.record.ends_early(study)) for study in numbers)
    assert ends and {study.choices for study in found} == {sum(numbers.values()) + ends}
    assert not any(study.differences for study in found)


def test_a_choice_that_does_not_follow_is_told():
    search = Search(shared_plan(), IN_MEMORY)
    search.run()
    study = search.record.optuna_study(FLAT)
    (ended,) = study.user_attrs[ENDED_EARLY]
    study.set_user_attr(ENDED_EARLY, [{**ended, "gain": 0.01}])
    (found,) = [one for one in replayed(search.record) if one.differences]
    assert found.study == FLAT
    assert [(one.what, one.stored) for one in found.differences] == [
        ("that it ends: expected gain", 0.01)
    ]
    study.set_user_attr(ENDED_EARLY, [])
    differences = [one for study in replayed(search.record) for one in study.differences]
    assert differences[0].study == FLAT and differences[0].derived is True


def test_a_trial_that_another_study_should_have_got_is_told():
    search = Search(shared_plan(), IN_MEMORY)
    for _ in range(3 * LEAST_TRIALS + 2):
        search.step()
    config = search.record.ask(FLAT, num_requests=0)
    (found,) = [one for study in replayed(search.record) for one in study.differences]
    assert (found.study, found.trial, found.stored) == (FLAT, config.number, FLAT)
    assert found.derived == IMPROVES


def test_a_choice_that_kept_no_requests_is_not_counted_among_those_that_follow():
    search = Search(shared_plan(), IN_MEMORY)
    for _ in range(5):
        search.step()
    record = search.record
    assert replayed(record)[0].choices == 5
    run = search.begin()
    assert run is not None
    storage, trial = record._storage, record.optuna_study(run.config.study).trials[-1]
    assert trial.user_attrs[REQUESTS_FOLLOWED] == 0
    storage.set_trial_user_attr(trial._trial_id, REQUESTS_FOLLOWED, None)
    (choices,) = {one.choices for one in replayed(record)}
    assert choices == 5
    for wrong in ("0", -1, True, 1.0):
        storage.set_trial_user_attr(trial._trial_id, REQUESTS_FOLLOWED, wrong)
        with pytest.raises(ValueError, match=f"{REQUESTS_FOLLOWED}: expected a number"):
            replayed(record)


def test_a_plan_that_shares_by_gain_and_freezes_is_refused_where_it_is_read():
    document = plan_document(shared_plan(pruner="successive_halving"))
    assert read_plan(document, source="a plan").allocation == "gain"
    document["pruner"]["freeze"] = True
    with pytest.raises(ValueError, match="a plan: allocation: gain judges"):
        read_plan(document, source="a plan")


def test_a_study_that_is_to_go_on_gets_its_share_without_another_being_stopped(tmp_path):
    search = Search(shared_plan(), url_of(tmp_path), steered=True)
    search.run()
    assert search.watch is not None and search.numbers[FLAT] == NUM_TRIALS // 2
    ask(search.record, Wish(go_on=(FLAT,)))
    search.watch.look()
    assert search.run()[FLAT] == NUM_TRIALS
    assert not any(study.differences for study in replayed(search.record))


def test_what_people_want_goes_first(tmp_path):
    search = Search(shared_plan(), url_of(tmp_path), steered=True)
    assert search.watch is not None
    for _ in range(3 * LEAST_TRIALS):
        search.step()
    assert search.record.ended_early(FLAT) is not None
    ask(search.record, Wish(stop=(IMPROVES,), go_on=(FLAT,)))
    search.watch.look()
    had = search.numbers[IMPROVES]
    numbers = search.run()
    assert numbers[IMPROVES] == had, "it was stopped"
    assert numbers[FLAT] >= NUM_TRIALS, "it gets its equal share at least"
    assert not any(study.differences for study in replayed(search.record))
    ask(search.record, Wish(more_trials=6, go_on=(IMPROVES,)))
    search.resume()
    more = search.run()
    assert more[IMPROVES] >= NUM_TRIALS + 6
    assert not any(study.differences for study in replayed(search.record))
    now = plan_now(search.plan, search.record)
    assert {study.name: study.num_trials for study in now.studies} == more


def test_a_study_that_ended_is_judged_again_where_it_may_get_more(tmp_path):
    search = Search(shared_plan(), url_of(tmp_path), steered=True)
    search.run()
    assert search.watch is not None
    before = search.numbers[IMPROVES]
    ask(search.record, Wish(trials=3 * NUM_TRIALS))
    search.watch.look()
    after = search.run()
    assert after[FLAT] == 3 * NUM_TRIALS // 2, "it has its floor, and ends again"
    assert len(search.record.ends_early(FLAT)) == 2
    assert after[IMPROVES] > before


def test_a_space_with_few_configurations_gets_no_more_than_these():
    plan = shared_plan(10)
    grid = {**SPACES["linear"], "search": {"weight_decay": {"choices": list(np.arange(12) / 100)}}}
    grid = json.loads(json.dumps(grid))
    search = Search(replace(plan, spaces={"linear": grid}), IN_MEMORY)
    numbers = search.run()
    assert numbers[IMPROVES] <= 12 < Search(plan, IN_MEMORY).run()[IMPROVES]


def test_equal_shares_leave_no_trace(tmp_path):
    plan = make_plan(tasks=("svhn", "eurosat"), spaces=("linear",), num_trials=7)
    document = plan_document(plan)
    assert "allocation" not in document and "ended" not in document["studies"][0]
    shared = plan_document(replace(plan, allocation="gain"))
    assert read_plan(shared, source="a plan").allocation == "gain"
    record = make_record(plan, tmp_path)
    search = Search(plan, url_of(tmp_path))
    assert set(search.run().values()) == {7}
    for study in plan.studies:
        for trial in record.optuna_study(study.name).trials:
            assert not {DRAWN_IN_SWEEP, REQUESTS_FOLLOWED} & trial.user_attrs.keys()
    assert all(study.choices is None for study in replayed(record))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"allocation": "most"}, "unknown value of --allocation 'most'"),
        ({"also": ["minimize=trained_parameters"]}, "leave out --also"),
        ({"pruner_options": {"freeze": True}}, "leave out --freeze"),
        ({"trials": LEAST_TRIALS}, "nothing is left to share"),
        ({"methods": ["linear"]}, "this sweep has one"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_starts(options, told, tmp_path):
    for name in ("cat", "dog"):
        write_pictures(tmp_path / "photos", name, images=20)
    given = {"allocation": "gain", "methods": ["linear", "vpt_deep"], **options}
    request = SweepRequest(str(tmp_path / "photos"), backbone="vit_tiny_patch16_224", **given)
    with pytest.raises(ValueError, match=told):
        look_at(request, name="pets", say=lambda line: None)
