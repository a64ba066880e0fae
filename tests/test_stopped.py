"""What a pruner compared a trial with is recorded as it was then, by each pruner's own rule."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from plans import curve_to, facts_of, make_plan, make_record

from orchestrator.plan.pruners.options import plan_pruner
from orchestrator.record.record import Record, TrialRecord
from orchestrator.record.stopped import Comparison
from orchestrator.tracking.notes import trial_note

STUDY = "caltech101.vpt_deep"


def run(record: Record, accuracies: list[float]) -> TrialRecord:
    """A trial with these accuracies after its epochs, until the pruner stops it."""
    number = record.ask(STUDY).number
    rows = [
        {**row, "val_accuracy": score}
        for row, score in zip(curve_to(1.0, len(accuracies)), accuracies, strict=True)
    ]
    for row in rows:
        kept = rows[: int(row["epoch"])]
        finished = row is rows[-1]
        if record.report(STUDY, number, [row], finished=finished) is not None:
            record.prune(STUDY, number, curve=kept, facts=facts_of(kept))
            return record.trial(STUDY, number)
    record.complete(STUDY, number, curve=rows, facts=facts_of(rows))
    return record.trial(STUDY, number)


@pytest.mark.parametrize(
    ("pruner", "earlier", "weak", "epoch", "against"),
    [
        # The best 1 of 3 goes on: a fourth part of them, and at least one.
        (
            "successive_halving",
            [[0.25, 0.5, 0.5, 0.5], [0.25, 0.75, 0.75, 0.875]],
            [0.5, 0.25, 0.9, 0.9],
            2,
            Comparison(
                score=0.25, num_others=2, num_better=2, best=0.75, median=0.625, needed=0.75
            ),
        ),
        # Its best epoch so far against the median of complete trials after the second epoch.
        (
            "median",
            [[0.25, 0.5, 0.5, 0.5]] * 3 + [[0.25, 0.75, 0.75, 0.875]] * 2,
            [0.375, 0.25, 0.9, 0.9],
            2,
            Comparison(score=0.375, num_others=5, num_better=5, best=0.75, median=0.5, needed=0.5),
        ),
    ],
)
def test_it_is_recorded_against_what_a_trial_was_stopped(
    tmp_path: Path, pruner, earlier, weak, epoch, against
):
    plan = make_plan(num_trials=8, pruner=pruner)
    record = make_record(plan, tmp_path)
    assert {run(record, scores).state for scores in earlier} == {"complete"}
    trial = run(record, weak)
    assert trial.state == "pruned" and trial.stop is not None
    assert (trial.stop.epoch, trial.stop.against) == (epoch, against)
    run(record, [0.9, 0.95, 0.95, 0.95])  # what comes later changes nothing
    again = Record(plan, record.storage_url).trial(STUDY, trial.number)
    assert again.stop == trial.stop
    note = trial_note(plan, again)
    assert note is not None and "which is no failure" in note
    assert f"after epoch {epoch} by the pruner `{pruner}`" in note
    for score in (against.score, against.best, against.median, against.needed):
        assert f"{100 * score:.1f}" in note


def test_hyperband_compares_within_a_bracket_and_so_does_what_is_recorded(tmp_path: Path):
    plan = make_plan(num_trials=30, epochs=16, pruner="hyperband", first_rung_epochs=1)
    record = make_record(plan, tmp_path)
    scores = Random(0)
    trials = [run(record, [scores.random()] * 16) for _ in range(30)]
    study = record.optuna_study(STUDY)
    stored = study.get_trials()
    bracket = [study.pruner._get_bracket_id(study, trial) for trial in stored]  # pyright: ignore
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert len({bracket[trial.number] for trial in pruned}) > 1
    for trial in pruned:
        assert trial.stop is not None and trial.stop.against is not None
        rung = max(n for n in stored[trial.number].system_attrs if n.startswith("completed_rung"))
        others = [
            other.system_attrs[rung]
            for other in stored[: trial.number]
            if bracket[other.number] == bracket[trial.number] and rung in other.system_attrs
        ]
        found = trial.stop.against
        assert (found.num_others, found.best) == (len(others), max(others))


def test_patience_alone_compares_with_no_other_trial(tmp_path: Path):
    alone = plan_pruner("patient", {"first_rung_epochs": 2, "patience": 1, "wrapped": "none"})
    plan = replace(make_plan(num_trials=3), pruner=alone)
    record = make_record(plan, tmp_path)
    run(record, [0.1, 0.2, 0.3, 0.4])
    note = trial_note(plan, run(record, [0.9, 0.8, 0.7, 0.6]))
    assert note is not None and "90.0 %." in note and "whatever the others have" in note
    assert "median" not in note and "complete trial" not in note


def test_of_a_trial_that_an_older_version_stopped_it_says_that_it_is_not_recorded(tmp_path: Path):
    plan = make_plan(num_trials=8, pruner="successive_halving")
    record = make_record(plan, tmp_path)
    run(record, [0.3, 0.7, 0.8, 0.9])
    trial = run(record, [0.3, 0.5, 0.9, 0.9])
    storage = record._storage
    trial_id = record._trial_id(STUDY, trial.number)
    told = storage.get_trial(trial_id).user_attrs["decision"]
    del told["against"]
    # As an older version left it, with the columns of Optuna's own tables.
    import json
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "studies.db")) as database, database:
        database.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE trial_id = ? AND key = ?",
            (json.dumps(told), trial_id, "decision"),
        )
    old = Record(plan, record.storage_url).trial(STUDY, trial.number)
    assert old.stop is not None and old.stop.against is None
    note = trial_note(plan, old)
    assert note is not None and "50.0 %" in note and "not recorded" in note
    assert "after epoch 2" in note


def test_optunas_own_tools_know_what_the_values_are(tmp_path: Path):
    record = make_record(make_plan(), tmp_path)
    assert record.optuna_study(STUDY).metric_names == ["val_accuracy"]
