"""Searches replayed on recorded curves: the product's own decisions, in an imitated time."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import allocation
import numpy as np
import optuna
import pytest
import search
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import SPACES, make_plan

from orchestrator.plan.nearness import distance
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.plan.pruners.options import plan_pruner
from orchestrator.plan.space import parse_space
from orchestrator.plan.start_points import StartPoint
from orchestrator.record.curves import (
    Curves,
    RecordedTrial,
    curves_of,
    plan_on,
    read_curves,
    write_curves,
)
from orchestrator.record.record import Record
from orchestrator.run.simulated import simulate

EPOCHS = 8
SPACE = {**SPACES["vpt_deep"], "fixed": {**SPACES["vpt_deep"]["fixed"], "epochs": EPOCHS}}


def made_up(num_trials: int = 12, tasks: Sequence[str] = ("digits",), seed: int = 0) -> Curves:
    """Curves of configurations drawn by chance, that rise to a height of their own."""
    numbers = np.random.default_rng(seed)
    plan = make_plan(tasks=tasks, num_trials=num_trials, epochs=EPOCHS, seed=seed)
    record = Record(plan, "memory")
    trials = []
    for study in plan.studies:
        for _ in range(num_trials):
            config = record.ask(study.name)
            height = numbers.uniform(0.2, 0.9)
            rise = [height * (1 - math.exp(-epoch / 3)) for epoch in range(1, EPOCHS + 1)]
            trials.append(
                RecordedTrial(
                    task=study.task,
                    num_classes=10,
                    num_train=800,
                    num_val=200,
                    val_majority_share=0.1,
                    metric="top1",
                    data_fingerprint=f"of {study.task}",
                    space=study.space,
                    method="vpt",
                    backbone="vit_tiny_patch16_224",
                    backbone_weights_sha256="ab" * 32,
                    image_size=112,
                    fixed=plan.parsed_spaces[study.space].fixed,
                    config=plan.parsed_spaces[study.space].searched(config.config),
                    seed=config.seed,
                    epochs=EPOCHS,
                    val_accuracy=rise,
                    val_loss=[1.0] * EPOCHS,
                    train_loss=[1.0] * EPOCHS,
                    seconds=[numbers.uniform(1, 2)] * EPOCHS,
                    failure=None,
                    finished="2026-11-27T10:00:00+00:00",
                    version="1",
                )
            )
    return Curves(spaces={"vpt_deep": plan.spaces["vpt_deep"]}, trials=trials)


def planned(curves: Curves, pruner: str = "successive_halving", **options: object):
    studies = [
        StudyPlan(task=task, space="vpt_deep", num_trials=len(curves.of(f"{task}.vpt_deep")))
        for task in curves.tasks
    ]
    given = {"first_rung_epochs": 2} if pruner in ("successive_halving", "hyperband") else {}
    return plan_on(curves, studies, pruner=plan_pruner(pruner, given, epochs=EPOCHS), **options)


def told_one_by_one(plan: SweepPlan, curves: Curves, folder: Path) -> list[tuple[str, int]]:
    """State and epochs of each trial, where a real storage hears of every epoch alone."""
    study = plan.studies[0].name
    recorded = {str(trial.config): trial for trial in curves.trials}
    record, found = Record(plan, f"sqlite:///{folder}/studies.db"), []
    for _ in range(plan.num_trials):
        asked = record.ask(study)
        searched = plan.parsed_spaces["vpt_deep"].searched(asked.config)
        rows = [
            {"epoch": epoch, "val_accuracy": value}
            for epoch, value in enumerate(recorded[str(searched)].val_accuracy, 1)
        ]
        for row in rows:
            is_last = row is rows[-1]
            if record.report(study, asked.number, [row], finished=is_last) is not None:
                record.prune(study, asked.number, curve=rows[: row["epoch"]], facts={})
                break
        else:
            record.complete(study, asked.number, curve=rows, facts={})
        ended = record.trial(study, asked.number)
        found.append((ended.state, len(ended.curve)))
    return found


@pytest.mark.parametrize("pruner", ["none", "median", "successive_halving", "hyperband"])
def test_a_simulated_search_stops_the_trials_that_a_real_one_would(pruner: str, tmp_path: Path):
    curves = made_up(20)
    plan = planned(curves, pruner)
    simulated = [end.trial for end in simulate(plan, curves)]
    space = plan.parsed_spaces["vpt_deep"]
    points = tuple(
        StartPoint(config=space.searched(trial.config), origin="simulated") for trial in simulated
    )
    study = dataclasses.replace(plan.studies[0], start_points=points)
    expected = told_one_by_one(dataclasses.replace(plan, studies=(study,)), curves, tmp_path)
    assert [(trial.state, len(trial.curve)) for trial in simulated] == expected
    assert any(trial.state == "pruned" for trial in simulated) == (pruner != "none")


@given(st.integers(1, 7), st.integers(0, 5))
@settings(deadline=None, max_examples=15)
def test_slots_are_never_idle_and_every_configuration_is_had_once(num_slots: int, seed: int):
    curves = made_up(10, tasks=("digits", "flowers"), seed=seed)
    ends = list(simulate(planned(curves, "none"), curves, num_slots=num_slots))
    configs = {(end.trial.study, str(end.trial.config)) for end in ends}
    assert len(configs) == len(ends) == 20
    times = [end.at_seconds for end in ends]
    assert times == sorted(times)
    work, longest = (f(sum(t.seconds) for t in curves.trials) for f in (sum, max))
    assert work / num_slots - 1e-6 <= times[-1] <= work / num_slots + longest
    assert max(end.study_epochs for end in ends) == 10 * EPOCHS


def test_start_points_come_first_and_a_failed_trial_is_told(tmp_path: Path):
    curves = made_up(6)
    last = curves.trials[-1]
    failed = dataclasses.replace(
        last, val_accuracy=last.val_accuracy[:3], failure="loss is nan at epoch 4"
    )
    curves = dataclasses.replace(curves, trials=[*curves.trials[:-1], failed])
    plan = planned(curves, "none")
    point = StartPoint(config=failed.config, origin="a friend")
    study = dataclasses.replace(plan.studies[0], start_points=(point,))
    first, *others = simulate(dataclasses.replace(plan, studies=(study,)), curves)
    assert (first.trial.state, first.trial.failure) == ("failed", "loss is nan at epoch 4")
    assert first.trial.origin == "a friend"
    assert first.at_seconds == pytest.approx(sum(failed.seconds[:3]))
    assert {end.trial.state for end in others} == {"complete"}


def test_fewer_curves_than_trials_are_refused():
    curves = made_up(3)
    study = StudyPlan(task="digits", space="vpt_deep", num_trials=4)
    plan = plan_on(curves, [study], pruner=plan_pruner("none", {}))
    with pytest.raises(
        ValueError, match=r"digits\.vpt_deep: 3 trials were recorded, 4 may be asked for"
    ):
        next(iter(simulate(plan, curves)))


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(deadline=None)
def test_a_distance_is_0_for_equal_configurations_alone(one: int, other: int):
    space = parse_space(SPACE, name="vpt_deep", source="test")
    study = optuna.create_study()
    first, second = (space.draw(_drawn(study, seed)) for seed in (one, other))
    assert distance(space, first, first) == 0
    assert distance(space, first, second) == pytest.approx(distance(space, second, first))
    assert (distance(space, first, second) == 0) == (first == second)


def _drawn(study: optuna.Study, seed: int) -> optuna.Trial:
    study.sampler = optuna.samplers.RandomSampler(seed=seed)
    return study.ask()


def test_curves_are_read_as_they_were_written(tmp_path: Path):
    curves = dataclasses.replace(made_up(4), about={"made_by": "a test"})
    path = tmp_path / "curves.parquet"
    write_curves(path, curves)
    again = read_curves(path)
    assert (again.spaces, again.about) == (curves.spaces, curves.about)
    for found, expected in zip(again.trials, curves.trials, strict=True):
        assert found.config == expected.config
        assert found.val_accuracy == pytest.approx(expected.val_accuracy)
        assert dataclasses.replace(found, val_accuracy=[], seconds=[]) == dataclasses.replace(
            expected, val_accuracy=[], seconds=[]
        )
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match="is not a file of learning curves"):
        read_curves(path)
    with pytest.raises(ValueError, match="no such file of learning curves"):
        read_curves(tmp_path / "other.parquet")


def test_of_a_sweep_whole_curves_are_kept_and_cut_ones_are_not(tmp_path: Path):
    plan = make_plan(num_trials=3)
    record, study = Record(plan, "memory"), plan.studies[0].name
    rows = [{"epoch": epoch, "val_accuracy": 0.1 * epoch} for epoch in (1, 2, 3, 4)]
    for _ in range(3):
        record.ask(study)
    record.complete(study, 0, curve=rows, facts={})
    record.prune(study, 1, curve=rows[:2], facts={})
    record.complete(study, 2, curve=[{"epoch": 1}, *rows[1:]], facts={})
    (kept,) = curves_of(plan, record.all_trials()).trials
    assert kept.val_accuracy == [0.1, 0.2, pytest.approx(0.3), 0.4]
    assert kept.config == plan.parsed_spaces["vpt_deep"].searched(record.trial(study, 0).config)


def of_a_grid(num_points: int, tasks: Sequence[str]) -> Curves:
    """The later a point of the grid, the better it is."""
    curves = made_up(num_points, tasks)
    rates = [10.0**-place for place in range(num_points)]
    space = {**SPACE, "search": {"lr": {"choices": rates}}}
    trials = [
        dataclasses.replace(
            trial, config={"lr": rates[place]}, val_accuracy=[place / num_points] * EPOCHS
        )
        for task in tasks
        for place, trial in enumerate(curves.of(f"{task}.vpt_deep"))
    ]
    return Curves(spaces={"vpt_deep": space}, trials=trials)


def test_the_search_benchmark_counts_compute_in_whole_trainings(capsys):
    curves = of_a_grid(5, ("digits", "flowers"))
    taught = search.Policy(name="taught", sampler="random", pruner="none", starts=search.learned(1))
    chosen = [search.policies()["random"], taught]
    rows = search.measure(
        curves, chosen, budgets=(0.5, 1, 5), num_seeds=3, least_trials=3, control="random"
    )
    regrets = {(row.policy, row.budget): row.regret for row in rows}
    assert regrets["random", 0.5] == regrets["taught", 0.5] == 2.0, "nothing is complete: the worst"
    assert regrets["random", 1] > regrets["taught", 1] == 0.0, "the other task taught the best"
    assert regrets["random", 5] == 0.0, "all is had"
    shares = {row.policy: row.shares_until_best["vpt_deep"] for row in rows}
    assert shares["taught"] == 1 / 5 and 1 / 5 < shares["random"] <= 1
    assert all(row.less == regrets["random", row.budget] - row.regret for row in rows)
    assert "| taught | 2.000 ± 0.000 | 0.000 ± 0.000 |" in capsys.readouterr().out


def test_the_allocation_benchmark_shares_one_total_and_says_where_too_little_was_recorded():
    curves = made_up(14, tasks=("digits", "flowers"))
    row = allocation.compare(curves, 7, sampler="random", num_seeds=1)
    assert row is not None and row.studies == 2
    assert row.trials <= 1 and row.least <= 7 <= row.most <= 14
    assert row.less == pytest.approx(row.equal - row.gain)
    assert allocation.compare(curves, 8, sampler="random", num_seeds=1) is None


@pytest.mark.parametrize("share_complete", [1.0, 1 / 3, 1 / 6])
def test_few_drawn_searches_end_while_much_is_left_to_gain_and_flat_ones_at_their_floor(
    share_complete: float,
):
    much = allocation.ends(2.0, share_complete, num_searches=100)
    assert much.early <= 0.06
    some = allocation.ends(1.0, share_complete, num_searches=100)
    assert some.early <= 0.4 and some.gain_left < 0.8
    flat = allocation.ends(0.0, share_complete, num_searches=1)
    assert (flat.ended, flat.early, flat.trials) == (1.0, 0.0, allocation.SHARE / 2)
