"""Configurations that did well elsewhere: which are chosen, and where they are tried first."""

import fnmatch
import statistics
from pathlib import Path

import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Sweep
from orchestrator.plan import prepare
from orchestrator.plan.portfolio import Entry, learn, portfolio_of, shipped_portfolio
from orchestrator.plan.space import load_space, parse_space

ENTRY = Entry(
    space="linear",
    backbones=("vit_quick*",),
    source="a friend",
    configs=({"lr": 2.5, "weight_decay": 0.0}, {"lr": 1.0}, {"lr": 0.05}),
)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.fixed_dictionaries({config: st.floats(0, 2) for config in range(5)}),
        min_size=1,
    ),
    st.integers(1, 5),
)
def test_each_configuration_is_the_one_that_helps_most_beside_those_before(regrets, size):
    chosen = learn(regrets, size)
    assert len(chosen) == size

    def mean_of(configs: tuple[int, ...]) -> float:
        return statistics.mean(min(of[c] for c in configs) for of in regrets.values())

    had: tuple[int, ...] = ()
    for config, mean in chosen:
        assert mean == mean_of((*had, config))
        left = set(range(5)) - set(had)
        assert mean == min(mean_of((*had, other)) for other in left)
        if had and mean == mean_of(had):  # none helps: then the one that does best by itself
            assert mean_of((config,)) == min(mean_of((other,)) for other in left)
        had = (*had, config)


def test_what_was_not_tried_on_every_task_is_not_chosen():
    regrets = {"digits": {"a": 0.5, "b": 0.0}, "flowers": {"a": 0.5}}
    assert learn(regrets, 2) == [("a", 0.5)]
    assert learn({}, 2) == []


def test_every_configuration_that_comes_with_us_can_be_drawn_from_its_space():
    names = timm.list_models() + timm.list_pretrained()
    for entry in shipped_portfolio():
        space = load_space(entry.space)
        assert [space.refused(config) for config in entry.configs] == [None] * len(entry.configs)
        for pattern in entry.backbones:
            assert fnmatch.filter(names, pattern), pattern
    pairs = [(entry.space, pattern) for entry in shipped_portfolio() for pattern in entry.backbones]
    assert len(set(pairs)) == len(pairs)


def test_only_what_suits_backbone_and_space_is_tried():
    linear = load_space("linear")
    assert portfolio_of(linear, "deit_tiny_patch16_224", [ENTRY]) == ()
    assert portfolio_of(load_space("bias"), "vit_quickstart", [ENTRY]) == ()
    fixed = parse_space(
        {**linear.document, "search": {"lr": {"choices": [1.0, 0.05]}}}, name="linear", source="x"
    )
    (first, second) = portfolio_of(fixed, "vit_quickstart", [ENTRY, ENTRY])
    assert [first.config, second.config] == [{"lr": 1.0}, {"lr": 0.05}]
    assert first.origin == "portfolio: a friend"


@pytest.mark.parametrize(
    ("trials", "options", "expected"),
    [(6, {}, [2.5, 1.0]), (2, {}, []), (9, {"portfolio": False}, []), (10, {}, [2.5, 1.0, 0.05])],
)
def test_a_third_of_the_trials_at_most_and_none_where_it_is_off(
    trials, options, expected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(prepare, "shipped_portfolio", lambda: (ENTRY,))
    sweep = Sweep.plan(
        "quickstart",
        tasks=["digits"],
        methods=["linear"],
        trials=trials,
        out=tmp_path / "sweep",
        **options,
    )
    (study,) = sweep.frozen_plan.studies
    assert [point.config["lr"] for point in study.start_points] == expected


def test_the_first_trials_of_a_sweep_are_those_and_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(prepare, "shipped_portfolio", lambda: (ENTRY,))
    given = {"tasks": ["digits"], "trials": 6, "epochs": 2}
    Sweep.plan("quickstart", methods=["linear", "vpt_deep"], **given, out=tmp_path / "both")
    assert "first: 2 of portfolio: a friend (linear)" in capsys.readouterr().out
    sweep = Sweep.plan("quickstart", methods=["linear"], **given, out=tmp_path / "sweep")
    assert "first: 2 of portfolio: a friend\n" in capsys.readouterr().out
    sweep.run(engine="local")
    trials = sweep.table().sort_values("number")
    assert list(trials["param.lr"][:2]) == [2.5, 1.0]
    assert list(trials["origin"][:2]) == ["portfolio: a friend"] * 2
    assert trials["origin"][2:].isna().all()
    again = Sweep.open(tmp_path / "sweep").frozen_plan.studies
    assert again == sweep.frozen_plan.studies
