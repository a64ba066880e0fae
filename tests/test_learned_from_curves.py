"""What is learned from the recorded curves that come with us, and what a warm start takes."""

from dataclasses import replace

import early_ranks
import learn_portfolio
import numpy as np
import pytest
import search
import yaml

from orchestrator.plan.plan import StudyPlan
from orchestrator.plan.pruners.options import plan_pruner
from orchestrator.plan.warm_start import MOST
from orchestrator.record.curves import Curves, plan_on, read_curves


@pytest.fixture(scope="module")
def curves() -> Curves:
    return read_curves(None)


def test_the_portfolio_that_comes_with_us_is_what_the_curves_teach():
    shipped = yaml.safe_load(learn_portfolio.FILE.read_text())
    learned = [one for one in shipped if one["source"].startswith(learn_portfolio.LEARNED)]
    assert learned == learn_portfolio.entries(None, size=10)


def test_to_write_it_keeps_what_was_published(tmp_path, monkeypatch):
    file = tmp_path / "portfolio.yaml"
    file.write_text(f"- space: of a friend\n{learn_portfolio.BEHIND}\n- space: older\n")
    monkeypatch.setattr(learn_portfolio, "FILE", file)
    learn_portfolio.main(["--size", "2", "--write"])
    first, *learned = yaml.safe_load(file.read_text())
    assert first == {"space": "of a friend"}
    assert learned == learn_portfolio.entries(None, size=2)
    assert all(len(entry["configs"]) <= 2 for entry in learned)


def with_accuracies(curves: Curves, space: str, of_task: dict[str, list[list[float]]]) -> Curves:
    """Trials of the space with these accuracies, epoch by epoch, on these tasks."""
    (like, *_) = [trial for trial in curves.trials if trial.space == space]
    trials = [
        replace(like, task=task, config={"number": number}, epochs=len(rows), val_accuracy=rows)
        for task, of_configs in of_task.items()
        for number, rows in enumerate(of_configs)
    ]
    return Curves(spaces=curves.spaces, trials=trials)


def test_early_ranks_tell_of_the_last_where_curves_do_not_cross(curves: Curves, capsys):
    """And configurations that are ranked the other way round elsewhere tell the contrary."""
    rising = [[height * epoch / 10 for epoch in range(1, 11)] for height in (0.2, 0.5, 0.9, 0.4)]
    crossing = [[0.3 + slope * (epoch - 5.5) / 10 for epoch in range(1, 11)] for slope in (1, 2, 3)]
    turned = [rising[number] for number in (1, 2, 0, 3)]
    made = with_accuracies(curves, "linear", {"a": rising, "b": rising, "c": rising})
    found = early_ranks.correlations(made, "linear")
    assert all(np.allclose(row, 1) for row in found.values())
    made = with_accuracies(curves, "linear", {"a": crossing, "b": crossing[::-1]})
    for *early, elsewhere in early_ranks.correlations(made, "linear").values():
        assert early[0] == pytest.approx(-1) and early[-1] == pytest.approx(1)
        assert elsewhere == pytest.approx(-1)
    made = with_accuracies(curves, "linear", {"a": rising, "b": rising, "c": turned})
    of_c = early_ranks.correlations(made, "linear")["c"]
    assert of_c[-1] < 0.5 and np.allclose(of_c[:-1], 1)
    early_ranks.main([])
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(curves.spaces)


def test_a_warm_start_takes_the_best_of_what_an_older_sweep_had_drawn_on_another_task(
    curves: Curves,
):
    task, space = curves.tasks[0], "vpt_deep"
    others = Curves(spaces=curves.spaces, trials=[t for t in curves.trials if t.task != task])
    study = StudyPlan(task=task, space=space, num_trials=10)
    plan = plan_on(curves, [study], pruner=plan_pruner("none", {}, epochs=30, warmup_epochs=3))
    drawn = [search.of_an_older_sweep(others, study, plan, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2], "which trials it had is a matter of the seed"
    for points in drawn:
        assert 0 < len(points) <= MOST
        assert all("older" in point.origin for point in points)
    (space_of, *_) = plan.parsed_spaces.values()
    for point in drawn[0]:
        config = space_of.searched(point.config)
        reached = []
        for other in others.tasks:
            of_other = [t for t in others.of(f"{other}.{space}") if t.failure is None]
            best = max(trial.val_accuracy[-1] for trial in of_other)
            reached += [t.val_accuracy[-1] / best for t in of_other if t.config == config]
        assert max(reached) > 0.9, "near the best of some other task"
