"""A study whose trials guess says so; one with a few bad trials does not."""

import math
from collections.abc import Sequence

from plans import make_plan, make_record, run_trial

from orchestrator.record.record import Record, TrialRecord
from orchestrator.report.collapse import collapse_sentence
from orchestrator.training.facts import EpochRow

STUDY = "caltech101.vpt_deep"


def end_with(record: Record, accuracy: float, losses: Sequence[float]) -> None:
    trial = record.ask(STUDY)
    curve: list[EpochRow] = [
        {"epoch": epoch, "train_loss": loss, "val_accuracy": accuracy}
        for epoch, loss in enumerate(losses, start=1)
    ]
    record.complete(STUDY, trial.number, curve=curve, facts={})


def sentence(trials: Sequence[TrialRecord]) -> str | None:
    return collapse_sentence(trials, num_classes=10, num_val=200)


def test_a_study_of_guesses_is_told_with_how_many_diverged(tmp_path):
    record = make_record(make_plan(num_trials=5), tmp_path)
    end_with(record, 0.10, [18.8, 306.0])
    end_with(record, 0.12, [18.8, math.nan])
    end_with(record, 0.09, [18.8, 7.1])
    end_with(record, 0.67, [18.8, 0.9])
    told = sentence(record.trials(STUDY))
    assert told is not None
    assert told.startswith(
        "3 of 4 trials ended no better than guessing (10 % for 10 classes), 2 of"
    )


def test_a_study_that_mostly_learns_is_not(tmp_path):
    record = make_record(make_plan(num_trials=5), tmp_path)
    for _ in range(3):
        run_trial(record, STUDY, accuracy=0.6)
    end_with(record, 0.10, [18.8, 306.0])
    assert sentence(record.trials(STUDY)) is None


def test_failed_trials_and_a_handful_say_nothing(tmp_path):
    record = make_record(make_plan(num_trials=5), tmp_path)
    for _ in range(2):
        run_trial(record, STUDY, ending="failed")
        end_with(record, 0.10, [18.8, 306.0])
    assert sentence(record.trials(STUDY)) is None
