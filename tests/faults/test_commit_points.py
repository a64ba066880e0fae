"""`kill -9` at every commit point, and again while resuming: the sweep ends as if nothing was."""

import shutil
import signal
from pathlib import Path

import pytest
from drivers import Drivers
from plans import make_plan
from story import Story, assert_whole, examine_folder, story_of

from orchestrator.plan.pruners.options import choices as pruner_choices
from orchestrator.record.record import Record
from orchestrator.support.commit_points import COMMIT_POINTS

pytestmark = pytest.mark.slow

PASSED_ONCE = ("half mlflow", "before table", "half table", "after export")
"""In a run of a driver; the others come by many times."""


@pytest.mark.parametrize("point", COMMIT_POINTS)
def test_killed_at_a_commit_point_the_sweep_decides_as_if_undisturbed(
    point: str, drivers: Drivers, sweep_folder: Path, undisturbed: Story
):
    times = 1 if point in PASSED_ONCE else 2
    assert drivers.run(sweep_folder, kill_at=f"{point}:{times}") == -signal.SIGKILL
    drivers.finish(sweep_folder)
    assert story_of(sweep_folder) == undisturbed
    assert_whole(sweep_folder)


def test_killed_at_one_commit_point_after_the_other_while_resuming(
    drivers: Drivers, sweep_folder: Path, undisturbed: Story
):
    for point in COMMIT_POINTS:
        code = drivers.run(sweep_folder, kill_at=point)
        # With all trials ended there is nothing to ask or report any more.
        assert code in (0, -signal.SIGKILL)
    drivers.finish(sweep_folder)
    assert story_of(sweep_folder) == undisturbed
    assert_whole(sweep_folder)


def test_a_killed_sweep_is_found_unfinished(drivers: Drivers, sweep_folder: Path):
    assert drivers.run(sweep_folder, kill_at="half tell:3") == -signal.SIGKILL
    remedies = {finding.remedy for finding in examine_folder(sweep_folder).findings}
    assert remedies == {"resume", "repair"}


def test_a_checkpoint_that_was_cut_off_is_not_used(
    drivers: Drivers, sweep_folder: Path, undisturbed: Story
):
    assert drivers.run(sweep_folder, kill_at="after checkpoint:2") == -signal.SIGKILL
    (checkpoint,) = sweep_folder.glob("trials/*/*.checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    drivers.finish(sweep_folder)
    assert story_of(sweep_folder) == undisturbed


def test_a_checkpoint_of_another_configuration_is_not_used(
    drivers: Drivers, sweep_folder: Path, undisturbed: Story, tmp_path: Path
):
    other = shutil.copytree(sweep_folder, tmp_path / "other")
    assert drivers.run(other, kill_at="after checkpoint:5") == -signal.SIGKILL
    (foreign,) = other.glob("trials/*/*.checkpoint")
    for study in ("colours_a.linear", "colours_a.vpt_deep"):
        for number in range(4):
            if foreign.parent.name != study or foreign.stem != str(number):
                place = sweep_folder / "trials" / study / f"{number}.checkpoint"
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(foreign, place)
    drivers.finish(sweep_folder)
    assert story_of(sweep_folder) == undisturbed
    assert_whole(sweep_folder)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("names_drawn", [0, 1, 2])
def test_a_trial_cut_off_while_it_was_drawn_gets_the_values_it_would_have_had(
    sampler: str, names_drawn: int, tmp_path: Path
):
    """With 12 trials before it, TPE proposes instead of drawing at random."""
    plan = make_plan(num_trials=20, sampler=sampler)
    (study,) = plan.studies
    records = []
    for name in ("whole", "cut"):
        record = Record(plan, f"sqlite:///{tmp_path / name}.db")
        for number in range(12):
            trial = record.ask(study.name)
            curve = [{"epoch": 1, "val_accuracy": (number * 7 % 12) / 12}]
            record.complete(study.name, trial.number, curve=curve, facts={})
        records.append(record)
    whole, cut = records
    expected = whole.ask(study.name)
    begun = cut.optuna_study(study.name).ask()
    reference = whole.optuna_study(study.name).get_trials()[-1]
    for name in list(expected.config)[: names_drawn + 2]:
        if name in reference.distributions:
            storage = cut.optuna_study(study.name)._storage
            distribution = reference.distributions[name]
            value = distribution.to_internal_repr(reference.params[name])
            storage.set_trial_param(begun._trial_id, name, value, distribution)
    again = Record(plan, f"sqlite:///{tmp_path / 'cut'}.db")
    assert again.interrupted() == [expected]


@pytest.mark.parametrize("point", ["after report", "half decision", "after decision"])
@pytest.mark.parametrize("pruner", [name for name in pruner_choices() if name != "none"])
def test_no_pruner_decision_is_lost_or_made_twice(point: str, pruner: str, tmp_path: Path):
    """Killed between the value of a rung, the decision and the rung, for every pruner."""
    plan = make_plan(num_trials=12, epochs=8, pruner=pruner, first_rung_epochs=1)
    stories = [_prune_many(plan, tmp_path / f"{at}.db", at) for at in (None, point)]
    assert stories[0] == stories[1]
    assert any(trial[0] == "pruned" for trial in stories[0])


class _Killed(Exception):
    pass


def _prune_many(plan, database: Path, killed_at: str | None) -> list[tuple[str, int, object]]:
    """Twelve trials with made curves; each is cut off once at every time that it passes."""
    import orchestrator.record.record as module

    study = plan.studies[0].name
    url = f"sqlite:///{database}"
    record = Record(plan, url)
    for number in range(12):
        record.ask(study)
        rows = [  # they fall, so that patience runs out as well
            {"epoch": epoch, "val_accuracy": ((number * 5) % 12 + (9 - epoch) / 10) / 14}
            for epoch in range(1, 9)
        ]
        stop = None
        for row in rows:
            last = row is rows[-1]
            if killed_at:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(module, "commit_point", _killer(killed_at))
                    try:
                        record.report(study, number, [row], finished=last)
                    except _Killed:
                        record = Record(plan, url)
            stop = record.report(study, number, [row], finished=last)
            if stop is not None:
                break
        curve = rows[: stop or len(rows)]
        (record.complete if stop is None else record.prune)(study, number, curve=curve, facts={})
    stored = record.optuna_study(study).get_trials()
    return [
        (record.trial(study, n).state, len(record.trial(study, n).curve), stored[n].system_attrs)
        for n in range(12)
    ]


def _killer(point: str):
    def commit_point(name: str) -> None:
        if name == point:
            raise _Killed

    return commit_point


def test_a_value_out_of_range_never_wins(tmp_path: Path):
    plan = make_plan(num_trials=4)
    (study,) = plan.studies
    record = Record(plan, f"sqlite:///{tmp_path / 'studies.db'}")
    for accuracy in (float("nan"), float("inf"), 1.5, 0.5):
        trial = record.ask(study.name)
        curve = [{"epoch": 1, "val_accuracy": accuracy}]
        record.complete(study.name, trial.number, curve=curve, facts={})
    states = [trial.state for trial in record.trials(study.name)]
    assert states == ["failed", "failed", "failed", "complete"]
    best = record.best(study.name)
    assert best is not None and best.number == 3
