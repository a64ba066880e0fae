"""A prior in a search space draws a name near what is believed, less and less often."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from plans import SPACES, make_plan
from tiny_backbones import tiny_vit
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.plan.prepare import fit_to_backbone
from orchestrator.plan.prior import (
    FIRST_WEIGHT,
    FROM_PRIOR,
    HALVED_AFTER,
    FromPriors,
    Prior,
    draws_from_priors,
    weight,
)
from orchestrator.plan.samplers import SeededByName
from orchestrator.plan.space import KEYS, SearchSpace, holds
from orchestrator.record.record import Record, TrialRecord
from orchestrator.support.yaml_io import parse_yaml

distributions = st.one_of(
    st.tuples(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6)).map(
        lambda one: FloatDistribution(one[0], one[0] + one[1])
    ),
    st.tuples(st.floats(1e-9, 1e3), st.floats(1.001, 1e6)).map(
        lambda one: FloatDistribution(one[0], one[0] * one[1], log=True)
    ),
    st.tuples(st.integers(-5, 5), st.integers(1, 9), st.sampled_from([0.125, 0.5, 2.5])).map(
        lambda one: FloatDistribution(one[0], one[0] + one[1] * one[2], step=one[2])
    ),
    st.tuples(st.integers(-9, 9), st.integers(1, 99), st.integers(1, 7)).map(
        lambda one: IntDistribution(one[0], one[0] + one[1] * one[2], step=one[2])
    ),
    st.tuples(st.integers(1, 9), st.integers(1, 999)).map(
        lambda one: IntDistribution(one[0], one[0] + one[1], log=True)
    ),
    st.lists(st.one_of(st.none(), st.integers(), st.text()), min_size=2, unique=True).map(
        CategoricalDistribution
    ),
)


@settings(deadline=None)
@given(distribution=distributions, place=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_what_is_drawn_lies_in_the_space(distribution: BaseDistribution, place: float, seed: int):
    drawn = Prior(value=_at(distribution, place)).draw(distribution, np.random.default_rng(seed))
    assert holds(distribution, drawn)
    if isinstance(distribution, IntDistribution | FloatDistribution):
        assert type(drawn) is (int if isinstance(distribution, IntDistribution) else float)


def _at(distribution: BaseDistribution, place: float) -> Any:
    """One of its values: the first, the last or one between them."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[round(place * (len(distribution.choices) - 1))]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is None:
        return min(high, low + place * (high - low))
    return low + round(place * round((high - low) / step)) * step


def draws(distribution: BaseDistribution, value: Any) -> list[Any]:
    chance = np.random.default_rng(0)
    return [Prior(value=value).draw(distribution, chance) for _ in range(2000)]


def test_a_range_is_drawn_around_what_is_believed_on_its_own_scale():
    logs = np.log10(draws(FloatDistribution(1e-4, 1.0, log=True), 1e-2))
    assert (np.mean(logs), np.std(logs)) == pytest.approx((-2, 0.88), abs=0.1)  # 1.0, cut at 2
    numbers = draws(IntDistribution(0, 100, step=10), 0)
    assert np.mean(numbers) == pytest.approx(20, abs=3) and {0, 10, 20} <= set(numbers)


def test_the_choice_that_is_named_is_drawn_four_times_as_often():
    found = draws(CategoricalDistribution([1, 5, 10, None]), None)
    assert found.count(None) / found.count(5) == pytest.approx(4, rel=0.2)


def test_the_weight_is_half_of_what_it_was_after_ten_trials_and_goes_to_none():
    assert weight(0) == FIRST_WEIGHT == 0.5
    assert weight(HALVED_AFTER) == FIRST_WEIGHT / 2
    assert weight(10_000) < 0.001
    assert all(weight(n) > weight(n + 1) for n in range(100))


STUDY = "caltech101.vpt_deep"
PRIORS: dict[str, Any] = {"lr": {"prior": 0.03}, "num_tokens": {"prior": 50}}


def record_with(
    priors: Mapping[str, Mapping[str, Any]], folder: Path, *, sampler: str = "random"
) -> Record:
    """Of one study whose space has these priors."""
    space = SPACES["vpt_deep"]
    search = {name: {**line, **priors.get(name, {})} for name, line in space["search"].items()}
    plan = make_plan(num_trials=100, sampler=sampler)
    plan = replace(plan, spaces={"vpt_deep": {**space, "search": search}})
    folder.mkdir(exist_ok=True)
    return Record(plan, f"sqlite:///{folder / 'studies.db'}")


def drawn(record: Record, number: int) -> list[TrialRecord]:
    for _ in range(number):
        trial = record.ask(STUDY)
        curve = [{"epoch": 1, "val_accuracy": trial.number / 100}]
        record.complete(STUDY, trial.number, curve=curve, facts={})
    return record.trials(STUDY)


@pytest.mark.parametrize("num_told", [0, 10, 40])
def test_as_many_trials_draw_from_priors_as_their_weight_says(num_told: int):
    """Trials that failed or still run tell nothing, and count for nothing."""
    study = study_with(complete=num_told // 2, pruned=num_told - num_told // 2, failed=7)
    found = [draws_from_priors(study, seed) for seed in range(1000)]
    expected = weight(num_told)
    error = math.sqrt(expected * (1 - expected) / len(found))
    assert np.mean(found) == pytest.approx(expected, abs=3 * error)


def study_with(*, complete: int, pruned: int = 0, failed: int = 0) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    states = (TrialState.COMPLETE, complete), (TrialState.PRUNED, pruned), (TrialState.FAIL, failed)
    space = SearchSpace.of(SPACES["vpt_deep"], name="vpt_deep")
    for number, state in enumerate(state for state, count in states for _ in range(count)):
        trial = study.ask()
        space.draw(trial)
        trial.report(number / 100, 1)
        study.tell(trial, number / 100 if state is TrialState.COMPLETE else None, state=state)
    study.ask()
    return study


def test_a_trial_from_priors_draws_all_of_them_and_nothing_else_of_it_changes(tmp_path: Path):
    with_priors = drawn(record_with(PRIORS, tmp_path / "with"), 12)
    without = drawn(record_with({}, tmp_path / "without"), 12)
    assert {one.origin for one in with_priors} == {None, FROM_PRIOR}
    for one, other in zip(with_priors, without, strict=True):
        differs = {name for name in one.config if one.config[name] != other.config.get(name)}
        if one.origin is None:
            assert not differs
        else:
            assert "lr" in differs <= {"lr", "num_tokens"}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_trial_that_was_cut_off_draws_the_same(sampler: str, tmp_path: Path):
    """The first five, of which some draw from priors and some do not."""
    whole, cut = (record_with(PRIORS, tmp_path / name, sampler=sampler) for name in ("a", "b"))
    for _ in range(5):
        asked = whole.ask(STUDY)
        cut.optuna_study(STUDY).ask()  # killed before a value was written
        again = Record(cut.plan, cut.storage_url)
        assert again.interrupted()[-1] == asked
    origins = [trial.origin for trial in again.trials(STUDY)]
    assert origins == [trial.origin for trial in whole.trials(STUDY)]
    assert set(origins) == {None, FROM_PRIOR}


def test_what_has_no_prior_is_proposed_by_tpe_as_ever():
    """After as many trials as it takes to learn, it draws names jointly."""
    space, found = SearchSpace.of(SPACES["vpt_deep"], name="vpt_deep"), []
    for priors in ({}, {"lr": Prior(value=0.03)}):
        study = study_with(complete=15)
        study.sampler = FromPriors(priors, 1, otherwise=SeededByName("tpe", 1))
        found.append(space.draw(study.ask()))
    without, with_prior = found
    assert with_prior == {**without, "lr": with_prior["lr"]} != without


def space_with(line: Mapping[str, Any], name: str = "num_tokens") -> SearchSpace:
    return SearchSpace.of({"method": "vpt", "search": {name: line}}, name="mine")


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("lr", {"low": 1e-4, "high": 1e-2, "prior": 0.1}, "lr: prior: 0.1 is not among"),
        ("lr", {"low": 1e-4, "high": 1e-2, "prior": "x"}, "lr: prior: 'x' is not among"),
        ("num_tokens", {"choices": [1, 5], "prior": 2}, "that are searched: 1, 5"),
        ("num_tokens", {"low": 1, "high": 9, "step": 2, "prior": 4}, "from 1 to 9 in steps of 2"),
        ("num_tokens", {"low": 1, "high": 9, "prior": True}, "prior: expected int, found True"),
        ("num_tokens", {"low": 1, "high": 9, "prior": 4.0}, "prior: expected int, found 4.0"),
        ("blocks", {"choices": [None, [4, 11]], "prior": [5, 11]}, "prior: '5-11' is not among"),
        ("lr", {"low": 1e-4, "high": 1e-2, "priro": 0.1}, "did you mean 'prior'?"),
    ],
)
def test_a_prior_that_is_no_value_of_its_line_is_refused(name: str, line: Any, words: str):
    with pytest.raises(ValueError, match=f"space mine: {name}: .*{words.split(': ')[-1]}") as error:
        space_with(line, name)
    assert words in str(error.value)


def test_a_prior_stays_where_other_names_are_fixed_and_goes_with_its_own():
    document = {
        "method": "vpt",
        "search": {"num_tokens": {"choices": [1, 5], "prior": 5}, "lr": {"choices": [0.1, 1.0]}},
    }
    space = SearchSpace.of(document, name="mine")
    assert space.with_fixed({"lr": 1.0}).priors == {"num_tokens": Prior(value=5)}
    assert space.with_fixed({"num_tokens": 1}).priors == {}


def test_blocks_are_believed_in_as_they_are_written():
    space = space_with({"choices": [None, [4, 11]], "prior": [4, 11]}, "blocks")
    assert space.priors == {"blocks": Prior(value="4-11")}
    assert space_with({"choices": [None, [4, 11]], "prior": None}, "blocks").priors == {
        "blocks": Prior(value=None)
    }


@pytest.mark.parametrize(("believed", "kept"), [([0, 1], True), ([8, 11], False)])
def test_a_prior_that_the_backbone_has_no_room_for_goes_with_its_choice(believed, kept):
    space = space_with({"choices": [None, [0, 1], [8, 11]], "prior": believed}, "blocks")
    said: list[str] = []
    fitted = fit_to_backbone(space, tiny_vit(), said.append)
    assert ("blocks" in fitted.priors) == kept
    assert ("space mine: and with it the prior of blocks" in said) != kept


def test_spaces_show_names_priors_and_where_a_study_starts(tmp_path: Path):
    page = tmp_path / "mine.yaml"
    page.write_text(
        "method: vpt\nsearch:\n  num_tokens: {choices: [1, 5], prior: 5}\n"
        "  lr: {low: 1e-3, high: 1.0, prior: 0.25}\nstart: [{num_tokens: 1, lr: 0.5}]\n"
    )
    said = CliRunner().invoke(app, ["spaces", "show", str(page)], catch_exceptions=False).output
    for words in ("1, 5, prior 5", "high 1.0, prior 0.25", "starts with num_tokens 1, lr 0.5"):
        assert words in said


def test_the_page_of_the_documentation_is_one():
    text = (Path(__file__).parents[1] / "docs/search_spaces.md").read_text()
    page = text.split("```yaml\n")[1].split("```")[0]
    space = SearchSpace.of(parse_yaml(page, source="docs"), name="my_vpt")
    assert (len(space.start), set(space.priors)) == (2, {"num_tokens", "lr"})
    words = {*KEYS, *(word for line in space.document["search"].values() for word in line)}
    assert all(f"`{word}`" in text or f"`{word}: " in text for word in words)
