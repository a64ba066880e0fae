"""Intervals hold what they promise, and no text says that a number is certain."""

import math
import re
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.support.uncertainty import (
    accuracy_text,
    clear_from,
    difference_error,
    interval,
    interval_over_seeds,
    paired_error,
    seeds_text,
    standard_error,
)

SHARES = st.integers(1, 5000).flatmap(
    lambda n: st.tuples(st.integers(0, n).map(lambda right: right / n), st.just(n))
)


@given(SHARES)
def test_an_interval_holds_its_accuracy_and_is_never_a_point(measured):
    accuracy, images = measured
    low, high = interval(accuracy, images)
    assert 0 <= low <= accuracy <= high <= 1
    assert high - low > 1 / (images + 4)
    assert standard_error(accuracy, images) > 0


def test_the_interval_is_wilsons():
    # Brown, Cai and DasGupta 2001; 10 of 10 has n / (n + 1.96^2) as its lower end.
    assert interval(1.0, 10) == (pytest.approx(10 / (10 + 1.959964**2)), 1.0)
    assert interval(0.0, 10) == (0.0, pytest.approx(1.959964**2 / (10 + 1.959964**2)))
    assert interval(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("images", [20, 200])
def test_an_interval_covers_the_truth_about_as_often_as_it_says(truth, images):
    shares = [math.comb(images, k) * truth**k * (1 - truth) ** (images - k) for k in range(images)]
    shares.append(truth**images)
    ends = [interval(k / images, images) for k in range(images + 1)]
    covered = sum(p for p, (low, high) in zip(shares, ends, strict=True) if low <= truth <= high)
    assert 0.92 < covered < 0.995


@pytest.mark.parametrize(
    ("accuracy", "images", "text"),
    [
        (0.955, 200, "95.5 ± 1.5"),
        (0.99, 200, "99.0 ± 0.7"),
        (0.995, 200, "99.5 ± 0.5"),
        (1.0, 200, "100.0 (≥ 98.1)"),
        (0.0, 200, "0.0 (≤ 1.9)"),
        (1.0, 1, "100.0 (≥ 20.7)"),
        (1.0, 100_000, "100.0 (≥ 99.996)"),
        (0.99999, 100_000, "99.999 ± 0.001"),
    ],
)
def test_an_accuracy_is_written_with_what_it_is_worth(accuracy, images, text):
    assert accuracy_text(accuracy, images) == text


@pytest.mark.parametrize(
    ("accuracies", "images", "text"),
    [
        ([0.94, 0.96], 200, "95.0 ± 1.4"),
        ([1.0, 1.0, 1.0], 200, "100.0 (≥ 98.1)"),
        ([0.0, 0.0], 200, "0.0 (≤ 1.9)"),
        ([0.95, 0.95, 0.95], 200, "95.0 (91.0–97.3)"),
        ([0.95], 200, "95.0 (91.0–97.3)"),
        ([0.95, 0.95], None, "95.0"),
        ([0.95001, 0.95002], 100_000, "95.0 (94.9–95.1)"),
    ],
)
def test_seeds_that_agree_do_not_make_a_number_certain(accuracies, images, text):
    assert seeds_text(accuracies, images) == text


@given(SHARES)
def test_no_text_says_plus_minus_nothing(measured):
    accuracy, images = measured
    for text in (accuracy_text(accuracy, images), seeds_text([accuracy] * 3, images)):
        assert not re.search(r"± 0\.?0*$", text), text
        assert "100.0 (≥ 100.0)" not in text and "0.0 (≤ 0.0)" not in text


@given(SHARES, st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_seeds_widen_the_interval_of_the_images(measured, accuracies):
    _, images = measured
    low, high = interval_over_seeds(accuracies, images)
    inner_low, inner_high = interval(statistics.fmean(accuracies), images)
    assert 0 <= low <= inner_low + 1e-12 and inner_high - 1e-12 <= high <= 1


@pytest.mark.parametrize("num_seeds", [2, 5])
def test_the_interval_over_seeds_covers_the_truth(num_seeds):
    """Seeds that move the true accuracy of a run, and test images that all of them share."""
    random = np.random.default_rng(0)
    truth, images, spread, covered = 0.8, 400, 0.03, 0
    for _ in range(2000):
        # An image is right where its own difficulty lies below what the run can do.
        difficulty = random.random(images)
        runs = truth + spread * random.standard_normal(num_seeds)
        accuracies = [float((difficulty < run).mean()) for run in runs]
        low, high = interval_over_seeds(accuracies, images)
        covered += low <= truth <= high
    assert 0.93 < covered / 2000 < 0.995


def test_few_seeds_must_differ_by_more():
    assert clear_from(10**6) == pytest.approx(2.0, abs=1e-4)
    assert clear_from(4) == pytest.approx(2.869, abs=1e-3)  # Student's t at 95.45 %
    assert clear_from(1) > clear_from(2) > clear_from(4)


def test_folds_that_agree_do_not_make_a_lead_of_one_image_certain():
    assert paired_error([0.0, 0.01], 200) == pytest.approx(0.005)
    # One image of 20 in each of two folds: only that one told the two apart.
    assert paired_error([0.05, 0.05], 40) == pytest.approx(math.sqrt(0.05 * 0.95 / 40))


def test_accuracies_of_0_and_1_are_not_certain_in_a_difference():
    assert difference_error(1.0, 200, 1.0, 200) > 0.005
