"""Last stages of a search, for tests that train nothing: whose folds reach what they are to."""

from collections.abc import Callable
from pathlib import Path

from plans import EPOCHS, curve_to, make_plan, make_record, run_trial, trial_facts

from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.plan import SweepPlan
from orchestrator.record.final_outcome import StudyOutcome, outcomes
from orchestrator.record.finals import FinalRecord
from orchestrator.record.record import Record
from orchestrator.run.final_queue import FinalQueue
from orchestrator.run.final_stage import plan_stage
from orchestrator.run.queue import Failed, Finished, Report, Run
from orchestrator.training.facts import FinalFacts
from orchestrator.training.final_trial import FoldTrial

STUDY = "caltech101.vpt_deep"
Searched = tuple[SweepPlan, Record, str]
Reached = Callable[[int, int, int], float]
"""Accuracy of a trial on a fold (-1: on test) in a repeat."""


def search(tmp_path: Path, accuracies) -> Searched:
    plan = make_plan(num_trials=len(accuracies))
    record = make_record(plan, tmp_path)
    for accuracy in accuracies:
        run_trial(record, STUDY, accuracy=accuracy)
    return plan, record, f"sqlite:///{tmp_path / 'studies.db'}"


def begin(searched: Searched, **protocol) -> FinalRecord:
    finals = FinalRecord(*searched)
    finals.begin(STUDY, FinalProtocol(seeds=(1, 2), **protocol), "f")
    return finals


def outcome_of(searched: Searched) -> StudyOutcome:
    plan, record, _ = searched
    (outcome,) = outcomes(plan, record, FinalRecord(*searched))
    return outcome


def stage_of_all(searched: Searched):
    plan, record, _ = searched
    (stage,) = plan_stage(
        plan, record, FinalRecord(*searched), {}, Path("s"), unfinished=False, again=False
    )
    return stage


def fold_of(run: Run) -> int:
    return vars(run.config)["fold"]


def repeat_of(run: Run) -> int:
    return int(run.files.rpartition("-repeat-")[2]) if "-repeat-" in run.files else 0


def through(
    searched: Searched,
    reached: Reached,
    *,
    killed: bool = False,
    slots: int = 1,
    most: int = 200,
    fails: tuple[int | None, int] | None = None,
) -> list[Run]:
    """Do what is left, `most` runs at most, and list it. `killed`: before every run all drivers
    die, with what they had begun; `fails`: the trial that fails in the repeat (None: all do)."""
    plan, *_ = searched
    ended: list[Run] = []
    while True:
        finals = FinalRecord(*searched)
        finals.go_on(STUDY)
        queue = FinalQueue(plan, finals, Path("runs"), lambda line: None)
        running: dict[str, Run] = {}
        while True:
            while len(running) < slots and len(ended) < most:
                run_id = f"{len(ended)}.{len(running)}"
                run = queue.next_run(run_id)
                if run is None or run == "finished":
                    break
                running[run_id] = run
            if not running:
                return ended
            run_id, run = running.popitem()
            ended.append(run)
            number, seed = run.config.number, run.config.seed
            end, repeat = Finished(), repeat_of(run)
            if fails in ((number, repeat), (None, repeat)) and run.kind is FoldTrial:
                end = Failed("loss is nan", "config")
            is_fold = run.kind is FoldTrial
            accuracy = reached(number, fold_of(run) if is_fold else -1, repeat)
            rows = curve_to(accuracy, EPOCHS)
            facts = trial_facts(rows)
            if not is_fold:
                facts = FinalFacts(**vars(facts), test_accuracy=accuracy + seed / 1000, num_test=10)
            queue.reported(run_id, Report(rows=rows, facts=facts, end=end))
            queue.forget(run_id)
            if killed:
                break


def seeds_decide(number: int, fold: int, repeat: int) -> float:
    """#1 is half a point ahead with the first seeds, #2 by more with the second ones; #0 is far
    behind."""
    base = {0: 0.60, 1: 0.705, 2: 0.70}.get(number, 0.5)
    noise = 0.02 * ((3 * number + 5 * fold) % 4 - 1.5)
    return base + noise + (0.03 if number == 2 and repeat else 0.0)


TIED = (0.65, 0.70, 0.69)
