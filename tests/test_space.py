"""A search space says exactly what is searched, and nothing that training would ignore."""

import math
from pathlib import Path

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from tiny_backbones import tiny_vit

from methods.recipe import Recipe
from orchestrator.plan.prepare import fit_to_backbone
from orchestrator.plan.space import (
    build,
    default_spaces,
    holds,
    load_space,
    parse_space,
    shipped_spaces,
)
from orchestrator.support.yaml_io import parse_yaml


def space_of(text: str, source: str = "mine.yaml"):
    return parse_space(parse_yaml(text, source=source), name="mine", source=source)


@pytest.mark.parametrize("name", shipped_spaces())
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_draw_of_a_shipped_space_builds_its_method(name: str, seed: int):
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    method, recipe = build(space.method, space.draw(study.ask()), source=name)
    assert isinstance(recipe, Recipe)
    for key, value in space.fixed.items():
        assert getattr(method, key, getattr(recipe, key, None)) == value


CONDITIONAL = """
method: vpt
fixed: {deep: true}
search:
  optimizer: {choices: [sgd, adamw]}
  momentum: {low: 0.8, high: 0.99, when: {optimizer: sgd}}
"""


def test_a_condition_decides_whether_a_name_is_drawn():
    space = space_of(CONDITIONAL)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.draw(study.ask()) for _ in range(20)]
    assert {d["optimizer"] for d in drawn} == {"sgd", "adamw"}
    assert all(("momentum" in d) == (d["optimizer"] == "sgd") for d in drawn)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: vptt", "mine.yaml: unknown method 'vptt'; did you mean 'vpt'?"),
        ("method: vpt\nsearch: {num_tokns: {choices: [1]}}", "did you mean 'num_tokens'?"),
        ("method: vpt\nserach: {}", "did you mean 'search'?"),
        ("method: vpt\nsearch: {lr: {lwo: 1, high: 2}}", "lr: unknown word 'lwo'; did you mean"),
        ("method: vpt\nsearch: {lr: 3}", "a single value belongs under fixed"),
        ("method: vpt\nsearch: {lr: {low: 2.0, high: 1.0}}", "mine.yaml: lr: "),
        ("method: vpt\nsearch: {lr: {low: -1.0, high: 1.0}}", "mine.yaml: lr: Recipe: lr=-1.0"),
        ("method: vpt\nsearch: {lr: {low: 1, high: .inf}}", "must be finite"),
        ("method: vpt\nsearch: {num_tokens: {choices: [1, x]}}", "expected int, found 'x'"),
        ("method: vpt\nsearch: {num_tokens: {choices: []}}", "at least one value"),
        ("method: vpt\nfixed: {deep: 'yes'}", "deep: expected bool, found 'yes'"),
        ("method: vpt\nfixed: {lr: 1.0}\nsearch: {lr: {choices: [1.0]}}", "both fixed and search"),
        (
            "method: vpt\nsearch: {lr: {choices: [1.0], when: {optimizer: sgd}}}",
            "lr: `when` names 'optimizer', not defined above it",
        ),
        ("method: vpt\nfixed: {lr: 1.0, lr: 2.0}", "mine.yaml:2: 'lr' stands here twice"),
        ("a: &a [x]\nmethod: *a", "mine.yaml:2: aliases"),
        ("method: !!python/name:os.system", "mine.yaml:1: could not determine a constructor"),
        ("method: [", "mine.yaml:"),
        ("- 1", "expected keys method, fixed, search"),
    ],
)
def test_a_wrong_space_says_what_and_where(text: str, message: str):
    with pytest.raises(ValueError) as error:
        space_of(text)
    assert message in str(error.value)


def test_numbers_are_read_as_a_scientist_writes_them():
    assert parse_yaml("[1e-4, 1E3, 0.5, 5, -2e+1, 1.e3, e5]", source="x") == [
        1e-4, 1e3, 0.5, 5, -20.0, 1e3, "e5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("method: vpt\nsearch: {num_tokens: {low: 1, high: 4}}", 4),
        ("method: vpt\nsearch: {lr: {choices: [1.0, 2.0]}, num_tokens: {choices: [1, 5]}}", 4),
        ("method: vpt\nsearch: {lr: {low: 0.1, high: 1.0}}", math.inf),
        ("method: vpt", 1),
        (
            "method: vpt\nsearch:\n  optimizer: {choices: [sgd, adamw]}\n"
            "  batch_size: {choices: [32, 64, 128], when: {optimizer: sgd}}",
            4,
        ),
    ],
)
def test_the_size_of_a_space_counts_conditions(text: str, number: float):
    assert space_of(text).num_combinations() == number


def test_fixing_a_name_takes_it_out_of_the_search():
    space = load_space("vpt_deep").with_fixed({"lr": 1.0, "epochs": 7, "warmup_epochs": 1})
    assert "lr" not in {d.name for d in space.dimensions}
    assert space.fixed["epochs"] == 7


def test_an_unknown_space_is_suggested():
    with pytest.raises(ValueError, match="did you mean 'vpt_deep'"):
        load_space("vpt_depe")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"none\.yaml: cannot be read"):
        load_space(str(tmp_path / "none.yaml"))


def test_the_prompt_methods_compete_where_no_method_is_named():
    names = [space.name for space in default_spaces()]
    deep_and_shallow = ["vpt_shallow", "vpt_deep", "spt_shallow", "spt_deep"]
    assert names == [*deep_and_shallow, "gatevpt", "lspt", "apt"]


DISTRIBUTIONS = (
    FloatDistribution(0.5, 2.0),
    FloatDistribution(1e-3, 10.0, log=True),
    FloatDistribution(0.0, 1.0, step=0.1),
    IntDistribution(1, 9, step=2),
    IntDistribution(1, 100, log=True),
    CategoricalDistribution([0.0, 1, "sgd", None, True]),
)
values = st.one_of(
    *(st.none(), st.booleans(), st.text(max_size=3), st.lists(st.integers(), max_size=1)),
    *(st.integers(-1, 101), st.integers(), st.floats(-1.0, 11.0), st.floats()),
    st.integers(-1, 11).map(lambda tenths: tenths * 0.1),
)


@settings(deadline=None)
@given(value=values)
@example(value=1.9999999999999982)  # nearly a whole number
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_what_may_be_drawn_is_what_optuna_takes(distribution, value):
    try:
        optuna.trial.create_trial(value=0, params={"x": value}, distributions={"x": distribution})
        taken = True
    except (ValueError, TypeError, OverflowError):
        taken = False
    assert holds(distribution, value) == taken


def test_more_prompts_than_patches_of_two_images_are_no_reason_to_leave_a_choice_out():
    text = "method: spt\nfixed: {deep: true}\nsearch:\n  num_tokens: {choices: [20, 50]}\n"
    said: list[str] = []
    space = fit_to_backbone(space_of(text), tiny_vit(), said.append)
    assert (space.dimensions[0].distribution.choices, said) == ((20, 50), [])
