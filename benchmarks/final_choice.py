"""What more finalists, and other seeds where the folds leave a near-tie, are worth: a simulation.

    python benchmarks/final_choice.py        # no training, one core, some minutes

A search ends with complete trials whose true accuracies lie close together. Whether a run answers
an image right depends on how hard the image is, on configuration and image together, and on the
seed of the run: how often two seeds and two configurations disagree is printed first. The best by
200 validation images become finalists, are compared on 5 folds of 1,000 images that contain these
200, and the best mean wins. Printed is by how many points the winner's true accuracy is short of
the best trial's, and how many runs of finalists that took. Errors and bounds are the product's own
(`orchestrator.support.uncertainty`, which needs scipy); no finalist is stopped.
"""

import argparse
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from orchestrator.support.uncertainty import clear_from, paired_error, standard_error

NUM_VAL, NUM_LABELLED, NUM_FOLDS, NUM_TRIALS = 200, 1000, 5, 12
HARDNESS, INTERACTION = 0.80, 0.07
"""Shares of the variance of an answer that images, and images with configurations, account for."""


@dataclass(frozen=True)
class Rule:
    finalists: int = 3
    most_finalists: int = 3
    repeats: int = 0

    def __str__(self) -> str:
        more = f" to {self.most_finalists}" if self.most_finalists > self.finalists else ""
        return f"{self.finalists}{more} finalists, {self.repeats} repeats"


RULES = (
    Rule(1, 1), Rule(3, 3), Rule(3, 3, 1), Rule(3, 3, 2), Rule(3, 6), Rule(3, 6, 1),
    Rule(3, 12), Rule(3, 12, 1),
)  # fmt: skip


def answers(true: np.ndarray, num_images: int, runs: int, rng: np.random.Generator) -> np.ndarray:
    """Which images (runs, trials, images) are answered right."""
    noise = 1 - HARDNESS - INTERACTION
    levels = np.array([NormalDist().inv_cdf(p) for p in true])
    hard = np.sqrt(HARDNESS) * rng.standard_normal(num_images)
    own = np.sqrt(INTERACTION) * rng.standard_normal((len(true), num_images))
    by_seed = np.sqrt(noise) * rng.standard_normal((runs, len(true), num_images))
    return hard + own + by_seed < levels[:, None]


def is_clear(best: np.ndarray, other: np.ndarray) -> bool:
    """Of two finalists by (repeat, fold): whether the first is shown to be better."""
    by_fold = list((best - other).mean(0))
    lead = float(np.mean(by_fold))
    error = paired_error(by_fold, NUM_LABELLED)
    return lead > 0 and lead >= clear_from(len(by_fold) - 1) * error


def chosen(rule: Rule, val: np.ndarray, folds: np.ndarray) -> tuple[int, int]:
    """The winner, and the runs of finalists; `folds` is (runs, trials, folds)."""
    order = np.argsort(-val, kind="stable")
    best = val[order[0]]
    near = int((val >= best - standard_error(float(best), NUM_VAL)).sum())
    leading = order[: max(rule.finalists, min(near, rule.most_finalists))]
    cost = NUM_FOLDS * len(leading)
    repeat = 0
    while True:
        seen = folds[: repeat + 1]
        winner = leading[np.argmax(seen[:, leading].mean((0, 2)))]
        leading = [
            one for one in leading if one == winner or not is_clear(seen[:, winner], seen[:, one])
        ]
        if len(leading) == 1 or repeat == rule.repeats:
            return int(winner), cost
        repeat += 1
        cost += NUM_FOLDS * len(leading)


def simulate(spread: float, searches: int, seed: int) -> dict[Rule, tuple[float, float, float]]:
    """Points lost, their standard error and runs, by rule."""
    found: dict[Rule, list[tuple[float, int]]] = {rule: [] for rule in RULES}
    rng = np.random.default_rng(seed)
    most = 1 + max(rule.repeats for rule in RULES)
    for _ in range(searches):
        true = 0.8 - np.abs(rng.normal(0, spread, NUM_TRIALS))
        # The search with a seed of its own; its validation images lie in all folds alike.
        right = answers(true, NUM_LABELLED, 1 + most, rng)
        val = right[0, :, :: NUM_LABELLED // NUM_VAL].mean(1)
        folds = right[1:].reshape(most, NUM_TRIALS, NUM_FOLDS, -1).mean(3)
        for rule in RULES:
            winner, cost = chosen(rule, val, folds)
            found[rule].append((100 * float(true.max() - true[winner]), cost))
    return {
        rule: (
            float(np.mean([lost for lost, _ in told])),
            float(np.std([lost for lost, _ in told]) / np.sqrt(len(told))),
            float(np.mean([cost for _, cost in told])),
        )
        for rule, told in found.items()
    }


def disagreement(rng: np.random.Generator) -> tuple[float, float]:
    """On how many of 100 images two seeds of one configuration disagree, and two configurations of
    one accuracy."""
    one, other = answers(np.array([0.8, 0.8]), 1_000_000, 2, rng)
    return 100 * float((one[0] != other[0]).mean()), 100 * float((one[0] != other[1]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    seeds, configurations = disagreement(np.random.default_rng(asked.seed))
    print(
        f"two seeds disagree on {seeds:.1f} of 100 images, two configurations on "
        f"{configurations:.1f}"
    )
    for spread in (0.01, 0.02, 0.04):
        print(f"true accuracies with a spread of {100 * spread:.0f} points")
        for rule, (lost, error, cost) in simulate(spread, asked.searches, asked.seed).items():
            print(f"  {rule!s:32} {lost:5.2f} ± {error:.2f} points lost, {cost:5.1f} runs")


if __name__ == "__main__":
    main()
