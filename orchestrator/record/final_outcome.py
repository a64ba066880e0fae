"""What the last stage found, study by study, from the storage."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.plan.final_protocol import FIRST_SEED
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.record.finalists import repeat_sentence
from orchestrator.record.finals import FinalRecord
from orchestrator.record.record import FINISHED, Record, TrialRecord
from orchestrator.support.counted import counted
from orchestrator.training.objective import DEFAULT_METRIC, together

BEING_COMPARED = "the finalists are still being compared"


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """What the last stage found for one study, in one round."""

    task: str
    space: str
    metric: str = DEFAULT_METRIC
    """What all its accuracies are, by name."""
    winner: int | None
    """Number of the trial in the search."""
    why: str
    """How the winner was chosen, or why there is none."""
    cross_validation: float | None
    """The winner's mean accuracy over the folds, and over the seeds of each."""
    cross_validation_interval: tuple[float, float] | None = None
    """95 %, of that mean, for the folds and their seeds; it was the best of the finalists'."""
    num_seeds_on_folds: int = 1
    """With how many seeds the winner was trained on each fold."""
    test_accuracies: Mapping[int, float]
    """By seed, after the last epoch."""
    failed_seeds: Mapping[int, str]
    """With the reasons."""
    num_test: int | None = None
    """Test images."""
    test_majority: int | None = None
    """How many of these images belong to the most frequent class."""
    test_baseline: float | None = None
    """The score of always answering that class; None: `test_majority` of `num_test`."""
    test_effective_images: float | None = None
    """As many images of a top-1 accuracy would tell as much; None: `num_test`."""
    test_images_by_class: Sequence[int] = ()
    """By label; empty where there are too many classes."""
    test_correct_by_class: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """By seed: the right ones, by label."""
    test_confused: Mapping[int, Sequence[Sequence[int]]] = field(default_factory=dict)
    """By seed: the wrong ones as [label, answer, images], the most first."""
    num_left: int
    """Runs that are still to be done."""
    num_finished_trials: int
    """Trials of the search that have ended by now."""
    num_planned_trials: int
    bundle_seed: int | None
    """The seed whose prompts are in the bundle."""
    seed_rule: str = ""
    """How that seed was chosen: `FIRST_SEED`, or `MEDIAN_SEED` by an older version."""
    round: int = 1
    """2 and more: the last stage was done again."""
    finalists: tuple[int, ...] = ()
    """Numbers in the search, the best of it first."""
    num_finalists: int = 0
    """How many were to be compared: there may have been fewer complete trials."""
    most_finalists: int = 0
    """How many, where more were within one standard error of the best; 0: `num_finalists`."""
    num_left_out: int = 0
    """Trials within one standard error of the best on validation that were not compared."""
    num_trials_at_choice: int = 0
    """How many trials of the search had ended when the finalists were chosen."""
    num_openings: int = 0
    """In how many rounds, with this one, the test split was opened for the study."""
    earlier: tuple["StudyOutcome", ...] = ()
    """The rounds before this one."""

    @property
    def test_majority_share(self) -> float | None:
        """The test score of always answering the most frequent class."""
        if self.test_baseline is not None or self.test_majority is None:
            return self.test_baseline
        return self.test_majority / self.num_test if self.num_test else None

    @property
    def test_images(self) -> float | None:
        """What uncertainty is computed from."""
        return self.test_effective_images or self.num_test

    @property
    def study(self) -> str:
        return f"{self.task}.{self.space}"


def outcomes(plan: SweepPlan, record: Record, finals: FinalRecord) -> list[StudyOutcome]:
    """The outcome of the newest round of every study."""
    return [
        _with_metric(_of_study(study, record.trials(study.name), finals), plan)
        for study in plan.studies
    ]


def _with_metric(outcome: StudyOutcome, plan: SweepPlan) -> StudyOutcome:
    """Of all its rounds: what was trained for in the search is what is compared and tested."""
    earlier = tuple(_with_metric(one, plan) for one in outcome.earlier)
    return replace(outcome, metric=plan.task(outcome.task).metric, earlier=earlier)


def _of_study(study: StudyPlan, trials: list[TrialRecord], finals: FinalRecord) -> StudyOutcome:
    ended = [trial for trial in trials if trial.state in FINISHED]
    rounds = [
        _of_round(study, ended, finals, number)
        for number in range(1, finals.num_rounds(study.name) + 1)
    ]
    if not rounds:
        return _nothing(study, ended)
    return replace(rounds[-1], earlier=tuple(rounds[:-1]))


def _nothing(study: StudyPlan, ended: list[TrialRecord]) -> StudyOutcome:
    return StudyOutcome(
        task=study.task,
        space=study.space,
        winner=None,
        why=why_no_finalist(ended),
        cross_validation=None,
        test_accuracies={},
        failed_seeds={},
        num_left=0,
        num_finished_trials=len(ended),
        num_planned_trials=study.num_trials,
        bundle_seed=None,
    )


def _of_round(
    study: StudyPlan, ended: list[TrialRecord], finals: FinalRecord, round: int
) -> StudyOutcome:
    name = study.name
    winner, finalists = finals.winner(name, round), finals.finalists(name, round)
    if winner is not None:
        why = winner.why
    elif not finals.chosen(name, round):
        why = why_no_finalist(ended)
    elif finalists and all(finalist.state == "failed" for finalist in finalists):
        why = "all finalists failed: " + "; ".join(f"#{f.number} {f.failure}" for f in finalists)
    elif reasons := finals.reasons(name, round):
        why = repeat_sentence(reasons)
    else:
        why = BEING_COMPARED
    won = finals.finalist(name, winner.number, round) if winner else None
    protocol = finals.protocol(name, round)
    runs = finals.final_runs(name, round)
    complete = [run for run in runs if run.state == "complete"]
    facts = complete[0].facts if complete else {}
    left = finals.num_left(name, round)
    effective = [
        run.facts["test_effective_images"]
        for run in complete
        if "test_effective_images" in run.facts
    ]
    return replace(
        _nothing(study, ended),
        winner=winner.number if winner else None,
        why=why,
        cross_validation=won.accuracy if won else None,
        cross_validation_interval=won.interval(finals.num_labelled(name)) if won else None,
        num_seeds_on_folds=len(won.passes) if won else 1,
        test_accuracies={run.seed: run.test_accuracy or 0.0 for run in complete},
        num_test=facts.get("num_test"),
        test_majority=facts.get("test_majority"),
        test_baseline=facts.get("test_baseline"),
        test_effective_images=together(effective) if effective else None,
        test_images_by_class=facts.get("test_images_by_class", ()),
        test_correct_by_class={
            run.seed: run.facts["test_correct_by_class"]
            for run in complete
            if "test_correct_by_class" in run.facts
        },
        test_confused={
            run.seed: run.facts["test_confused"] for run in complete if "test_confused" in run.facts
        },
        failed_seeds={run.seed: run.failure or "" for run in runs if run.state == "failed"},
        num_left=left,
        bundle_seed=complete[0].seed if complete and not left else None,
        seed_rule=FIRST_SEED if complete and not left else "",
        round=round,
        finalists=tuple(finals.chosen(name, round)),
        num_finalists=protocol.num_finalists,
        most_finalists=protocol.most_finalists,
        num_left_out=finals.num_left_out(name, round),
        num_trials_at_choice=finals.num_trials_at_choice(name, round),
        num_openings=finals.num_openings(name, round),
    )


def why_no_finalist(ended: list[TrialRecord]) -> str:
    """Why a study has no trial that can be compared."""
    states = Counter(trial.state for trial in ended)
    if states["complete"]:
        return "its finalists are not chosen yet"
    if not ended:
        return "no trial of the search has ended"
    told = ", ".join(f"{states[state]} {state}" for state in ("pruned", "failed") if states[state])
    return (
        f"none of the {counted(len(ended), 'trial')} of the search that ended was complete: {told}"
    )
