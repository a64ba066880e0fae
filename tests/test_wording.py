"""Counts, paths and values as people read them."""

import pytest

from orchestrator.support.counted import counted


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
