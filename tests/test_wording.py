"""Counts, paths and values as people read them."""

from pathlib import Path

import pytest

from orchestrator.plan.space import load_space
from orchestrator.support.counted import counted
from orchestrator.support.near import near, typed
from orchestrator.support.shown_values import config_text


@pytest.mark.parametrize(
    ("number", "thing", "told"),
    [
        (1, "trial", "1 trial"),
        (0, "trial", "0 trials"),
        (2, "study", "2 studies"),
        (1, "study", "1 study"),
        (3, "class", "3 classes"),
        (2, "day", "2 days"),
        (2, "batch", "2 batches"),
        (1200, "image", "1,200 images"),
    ],
)
def test_a_count_has_its_plural(number, thing, told):
    assert counted(number, thing) == told


def test_an_irregular_plural_is_said():
    assert counted(2, "class holds", "classes hold") == "2 classes hold"


def test_a_configuration_is_what_was_searched_in_the_order_of_its_page():
    space = load_space("linear")
    drawn = {dimension.name: 0.0012345678 for dimension in reversed(space.dimensions)}
    shown = space.searched({**drawn, **space.fixed, "constant": 7})
    assert list(shown) == [dimension.name for dimension in space.dimensions]
    assert config_text(shown).startswith(f"{space.dimensions[0].name} 0.00123, ")


def test_paths_below_the_user_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert near(tmp_path / "sweeps" / "x") == near(Path("sweeps/x")) == "sweeps/x"
    assert near(tmp_path.parent / "other") == str(tmp_path.parent / "other")
    assert typed(tmp_path / "my sweep") == "'my sweep'"
