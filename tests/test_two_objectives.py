"""A second objective: what is proposed looks at both, what is stored stays as with one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from plans import EPOCHS, curve_to, facts_of, make_plan, make_record

from orchestrator.api.requests import PlanRequest
from orchestrator.api.sweep_file import with_file
from orchestrator.plan.costs import COSTS, Also, second_objective
from orchestrator.plan.plan import SweepPlan, plan_document, read_plan
from orchestrator.plan.samplers import SeededByName
from orchestrator.record.record import Record
from orchestrator.record.replay import replayed
from orchestrator.record.seen_cost import SeeingCost, with_cost

TRAINED = Also(minimize="trained_parameters")
STUDY = "caltech101.vpt_deep"


def two_objectives(num_trials: int = 40, **other: Any) -> SweepPlan:
    plan = make_plan(num_trials=num_trials, sampler="tpe", **other)
    space = plan.spaces["vpt_deep"]
    searched = {
        "num_tokens": {"low": 1, "high": 200},
        "lr": {"low": 1e-3, "high": 10.0, "log": True},
    }
    return replace(plan, also=TRAINED, spaces={"vpt_deep": {**space, "search": searched}})


def score_of(config: Any) -> float:
    """It hardly grows with the length of the prompt: the cheap are nearly as good."""
    off = np.log10(config["lr"] / 0.3)
    return 0.9 - 0.05 * off**2 - 0.1 / config["num_tokens"]


def train(record: Record, count: int, *, stop_after: int | None = None) -> None:
    """Trials of a made-up law; every third is pruned, if that is said."""
    for _ in range(count):
        trial = record.ask(STUDY)
        rows = curve_to(score_of(trial.config), EPOCHS)
        tokens: Any = trial.config["num_tokens"]
        cost = {"num_tuned_parameters": 1000 * tokens}
        if stop_after and trial.number % 3 == 2:
            rows = rows[:stop_after]
            record.report(STUDY, trial.number, rows, finished=False)
            record.prune(STUDY, trial.number, curve=rows, facts=facts_of(rows) | cost)
            continue
        record.report(STUDY, trial.number, rows, finished=True)
        record.complete(STUDY, trial.number, curve=rows, facts=facts_of(rows) | cost)


def configs(record: Record) -> list[dict[str, Any]]:
    return [dict(trial.config) for trial in record.trials(STUDY)]


def search(seed: int, *, sees_cost: bool) -> list[tuple[int, float]]:
    """Tokens and scores of 40 trials of the law, in a study in memory."""
    study = optuna.create_study(direction="maximize")
    found = []
    for number in range(40):
        study.sampler = SeededByName("tpe", 1000 * seed + number)
        if sees_cost:
            study.sampler = SeeingCost(study.sampler, TRAINED.cost)
        trial = study.ask()
        tokens = trial.suggest_int("num_tokens", 1, 200)
        lr = trial.suggest_float("lr", 1e-3, 10.0, log=True)
        score = score_of({"num_tokens": tokens, "lr": lr})
        trial.set_user_attr("facts", {"num_tuned_parameters": 1000 * tokens})
        study.tell(trial, score)
        found.append((tokens, score))
    return found


def hypervolume(found: list[tuple[int, float]]) -> float:
    """The area that the trials dominate, of all between no accuracy and 200 tokens; in [0, 1]."""
    best, area, last = 0.0, 0.0, 200
    for tokens, score in sorted(found):
        area += best * max(0, tokens - last)
        best, last = max(best, score), tokens
    return (area + best * (200 - last)) / 200


def test_the_sampler_proposes_with_both():
    """The same seeds: with the cost seen more is dominated, and prompts are shorter."""
    area, tokens = {}, {}
    for sees_cost in (False, True):
        found = [search(seed, sees_cost=sees_cost) for seed in range(5)]
        area[sees_cost] = np.mean([hypervolume(trials) for trials in found])
        tokens[sees_cost] = np.mean([length for trials in found for length, _ in trials[10:]])
    assert area[True] > area[False]
    assert tokens[True] < tokens[False] / 2


@pytest.mark.slow
def test_the_first_trials_are_those_of_one_objective(tmp_path):
    """Until the sampler has seen enough it draws at random, whatever is asked for."""
    drawn = []
    for also in (None, TRAINED):
        folder = tmp_path / str(also is None)
        folder.mkdir()
        record = make_record(replace(two_objectives(), also=also), folder)
        train(record, 13)
        drawn.append(configs(record))
    assert drawn[0][:10] == drawn[1][:10]
    assert drawn[0] != drawn[1]


@pytest.mark.slow
def test_what_is_proposed_depends_on_storage_and_seed_alone(tmp_path):
    """A sweep that is opened anew before every trial draws what an undisturbed one draws."""
    folders = [tmp_path / name for name in ("whole", "anew")]
    for folder in folders:
        folder.mkdir()
    plan = two_objectives()
    whole, anew = make_record(plan, folders[0]), make_record(plan, folders[1])
    train(whole, 14, stop_after=2)
    for _ in range(14):
        train(anew, 1, stop_after=2)
        anew = make_record(plan, folders[1])
    assert configs(anew) == configs(whole)
    (again,) = replayed(whole)
    assert again.suggestions == 14
    # That a pruner stopped them is made up here.
    assert {difference.what for difference in again.differences} <= {"state"}


@pytest.mark.slow
def test_a_trial_that_was_cut_off_while_it_was_drawn_is_drawn_again_alike(tmp_path):
    plan = two_objectives()
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, cut = (make_record(plan, tmp_path / name) for name in ("whole", "cut"))
    for record in (whole, cut):
        train(record, 12)
    drawn = whole.ask(STUDY)
    cut.optuna_study(STUDY).ask()  # the driver died between ask and draw
    (again,) = make_record(plan, tmp_path / "cut").interrupted()
    assert again == drawn


def test_the_stored_study_has_one_objective_and_its_best_trial_is_the_most_accurate(tmp_path):
    record = make_record(two_objectives(), tmp_path)
    train(record, 12, stop_after=2)
    stored = record.optuna_study(STUDY)
    assert len(stored.directions) == 1
    states = [trial.state for trial in stored.get_trials()]
    assert states.count(TrialState.PRUNED) == 4
    best = record.best(STUDY)
    assert best is not None
    complete = [trial for trial in record.trials(STUDY) if trial.state == "complete"]
    assert best.val_accuracy == max(trial.val_accuracy or 0.0 for trial in complete)


def test_with_hyperband_a_trial_is_drawn_from_the_trials_of_its_bracket(tmp_path):
    record = make_record(two_objectives(pruner="hyperband", first_rung_epochs=1), tmp_path)
    train(record, 11)
    assert len(record.trials(STUDY)) == 11


def seen(*trials: dict[str, Any]) -> optuna.Study:
    made = [create_trial(**trial) for trial in trials]
    return with_cost(made, COSTS["trained_parameters"])


def test_a_trial_without_its_cost_is_not_seen_and_a_running_one_is():
    facts = {"facts": {"num_tuned_parameters": 7}}
    study = seen(
        {"value": 0.5, "user_attrs": facts},
        {"value": 0.5},
        {"state": TrialState.RUNNING},
        {"state": TrialState.FAIL},
    )
    states = [trial.state.name for trial in study.get_trials()]
    assert states == ["COMPLETE", "FAIL", "RUNNING", "FAIL"]
    assert study.get_trials()[0].values == [0.5, 7.0]


def test_pruned_trials_stand_behind_complete_ones_the_nearer_the_further_they_came():
    def pruned(epoch: int, score: float) -> dict[str, Any]:
        return {"state": TrialState.PRUNED, "intermediate_values": {1: 0.9, epoch: score}}

    nothing = {"state": TrialState.PRUNED}
    study = seen(pruned(9, 0.8), pruned(9, 0.2), pruned(3, 0.9), pruned(1, 0.1), nothing)
    behind = [sum(trial.constraints.values()) for trial in study.get_trials()]
    assert behind == sorted(behind) and len(set(behind)) == 5
    assert behind[0] > 0


def test_cost_is_told_of_facts():
    facts = {"num_tuned_parameters": 1290, "images_per_second": 4000.0}
    told = {name: cost.of(facts) for name, cost in COSTS.items()}
    assert told == {"trained_parameters": 1290.0, "train_seconds_per_image": 1 / 4000}
    assert COSTS["trained_parameters"].text(1290.0) == "1,290"
    assert COSTS["train_seconds_per_image"].text(1 / 4000) == "0.25"
    assert {cost.of({}) for cost in COSTS.values()} == {None}
    assert COSTS["train_seconds_per_image"].of({"images_per_second": 0.0}) is None


def test_a_plan_of_before_opens_and_one_without_a_second_objective_is_as_before():
    plan = make_plan()
    assert "also" not in plan_document(plan)
    assert read_plan(plan_document(plan), source="old").also is None
    both = replace(plan, also=TRAINED)
    assert plan_document(both)["also"] == {"minimize": "trained_parameters"}
    assert read_plan(plan_document(both), source="new") == both
    document = {**plan_document(both), "also": {"minimize": "trained_parametres"}}
    with pytest.raises(ValueError, match=r"also\.minimize.*trained_parametres"):
        read_plan(document, source="wrong")


@pytest.mark.parametrize("now", [None, Also(minimize="train_seconds_per_image")])
def test_trials_that_were_drawn_for_another_objective_are_refused(now, tmp_path):
    make_record(two_objectives(), tmp_path)
    with pytest.raises(ValueError, match=r"also.*trained_parameters"):
        make_record(replace(two_objectives(), also=now), tmp_path)


def test_studies_of_before_are_opened_with_one_objective_and_refused_with_two(tmp_path):
    record = make_record(make_plan(), tmp_path)
    stored = record.optuna_study(STUDY)
    before = {key: value for key, value in stored.user_attrs["plan"].items() if key != "also"}
    stored.set_user_attr("plan", before)
    make_record(make_plan(), tmp_path)
    with pytest.raises(ValueError, match=r"also: was None, is .*trained_parameters"):
        make_record(replace(make_plan(), also=TRAINED), tmp_path)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["minimize=trained_parameter"], "did you mean 'trained_parameters'"),
        (["trained_parameters"], "expected minimize=trained_parameters$"),
        (["minimise=trained_parameters"], "expected minimize=trained_parameters$"),
        (["maximize=speed"], "the score is maximized.*minimize=NAME, of trained_parameters, "),
        (["minimize=trained_parameters", "minimize=train_seconds_per_image"], "two objectives"),
    ],
)
def test_what_cannot_be_minimized_is_told_with_what_can(asked, told):
    with pytest.raises(ValueError, match=told):
        second_objective(asked)


def test_a_file_may_say_it_as_a_text_or_as_a_pair(tmp_path: Path):
    for text in ("minimize=trained_parameters", "{minimize: trained_parameters}"):
        file = tmp_path / "mine.yaml"
        file.write_text(f"suite: quickstart\nalso: {text}\n")
        given = with_file({"suite": str(file)})
        assert second_objective(PlanRequest(**given).also) == TRAINED
