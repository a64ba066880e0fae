"""What `finalize` is about to do, study by study, and whether it may: decided on the storage alone.

The test images of a study are to be opened once, when its search is over. Whoever wants it
otherwise says so, and it is recorded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator.cluster.slots import Slots
from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.plan import StudyPlan, SweepPlan, TaskPlan
from orchestrator.record.finalists import finalists_of, num_left_out
from orchestrator.record.finals import FinalRecord
from orchestrator.record.record import FINISHED, Record, TrialRecord
from orchestrator.support.aligned import aligned
from orchestrator.support.counted import counted
from orchestrator.support.durations import duration_text
from orchestrator.training.config import build

SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class StudyStage:
    """What is to be done for one study."""

    plan: StudyPlan
    protocol: FinalProtocol
    round: int
    """1, or more where the last stage is done again."""
    begins: bool
    """The finalists are chosen now; else the round was begun before."""
    finalists: Sequence[int]
    """Numbers in the search, the best of it first."""
    num_left: int
    """Runs, if no finalist is stopped."""
    num_possible: int = 0
    """Those of them that only finalists cause which the folds cannot tell apart."""
    num_left_out: int = 0
    """Trials within one standard error of the best on validation that are not compared."""
    epochs: Sequence[int]
    """The epochs that the finalists were trained for."""
    num_trials: int
    """Trials of the search that have ended."""
    run_seconds: float | None = None
    """About how long a run takes, by what the search took for an epoch of its finalists; None: it
    was not kept."""
    outdated: Sequence[str] = field(default=())
    """Why its newest round does not stand for what is asked now."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be chosen or run."""
        return not self.begins and not self.num_left


def plan_stage(
    plan: SweepPlan,
    record: Record,
    finals: FinalRecord,
    asked: Mapping[str, Any],
    folder: Path,
    *,
    unfinished: bool,
    again: bool,
) -> list[StudyStage]:
    """A stage for every study. `asked` are the fields of the protocol that somebody gave: the
    others are those that the stage was begun with.

    ValueError if the finalists are out of date, the protocol is another one, or the search is not
    over, unless `again` or `unfinished` asks for it all the same.
    """
    standings = [_standing_of(plan, study, record, finals, asked, again) for study in plan.studies]
    stages = settle(standings, finals, folder, again=again)
    if not unfinished:
        _refuse_unfinished(stages, folder)
    return stages


def with_images(
    stages: Sequence[StudyStage],
    finals: FinalRecord,
    fingerprints: Mapping[str, str],
    folder: Path,
    *,
    again: bool,
) -> list[StudyStage]:
    """The stages after a look at the images of trainval and test; `fingerprints` are by task.

    ValueError if they are others than those that a round was begun with, unless `again`.
    """
    standings = []
    for stage in stages:
        study, now = stage.plan.name, fingerprints[stage.plan.task]
        then = now if stage.begins else finals.fingerprint(study)
        changed = [] if then == now else [f"data_fingerprint was {then}, now {now}"]
        standings.append(replace(stage, outdated=changed))
    stages = settle(standings, finals, folder, again=again)
    if again and all(stage.is_over for stage in stages):
        raise ValueError(
            f"{folder}: there is nothing to do again: finalists, protocol and images of every "
            "study are those of its last round, and no run of it failed"
        )
    return stages


def settle(
    stages: Sequence[StudyStage], finals: FinalRecord, folder: Path, *, again: bool
) -> list[StudyStage]:
    """The stages with a new round for those that are out of date; ValueError unless `again`."""
    outdated = [stage for stage in stages if stage.outdated]
    if outdated and not again:
        told = [f"{stage.plan.name}: {'; '.join(stage.outdated)}" for stage in outdated]
        opened = max(finals.num_openings(stage.plan.name) for stage in outdated)
        times = f", and that the test split was opened {opened + 1} times" if opened else ""
        raise ValueError(
            f"{folder} was finalized before, and its test images count once: "
            f"{'; '.join(_first(told))}. `orchestrator finalize {folder} --again` does the last "
            f"stage of what changed again, and records both rounds{times}"
        )
    return [_begun_anew(stage, finals) if stage.outdated else stage for stage in stages]


def sentences(stages: Sequence[StudyStage], *, slots: Slots | None = None) -> list[str]:
    """What is to be done, in short, and about how long it takes, in one slot or in these."""
    at_work = [stage for stage in stages if stage.num_left]
    if not at_work:
        return ["nothing is left to be run"]
    protocols = dict.fromkeys(stage.protocol for stage in at_work)
    folds = " or ".join(dict.fromkeys(str(one.num_folds) for one in protocols))
    seeds = " or ".join(dict.fromkeys(",".join(map(str, one.seeds)) for one in protocols))
    num_epochs = _range_text(epoch for stage in at_work for epoch in stage.epochs)
    left = sum(stage.num_left for stage in at_work)
    finalists = _range_text(len(stage.finalists) for stage in at_work)
    return [
        f"last stage of {len(at_work)} of {counted(len(stages), 'study')}: "
        f"{counted(left, 'run')} at most, of {num_epochs} epochs each",
        *aligned(
            [
                (
                    "folds",
                    [f"the best {finalists} of each study on {folds} folds of train and val"],
                ),
                *_left_out(at_work),
                *_repeats(at_work),
                (
                    "test",
                    [f"each winner, trained on both with seeds {seeds}, tested once per seed"],
                ),
                ("time", [_about(at_work, slots)]),
            ]
        ),
    ]


def _left_out(stages: Sequence[StudyStage]) -> Iterator[tuple[str, list[str]]]:
    found = [stage for stage in stages if stage.num_left_out]
    if not found:
        return
    # Not of a stage that has begun, which would refuse it, nor when test numbers may be known.
    free = [len(s.finalists) + s.num_left_out for s in found if s.begins and s.round == 1]
    yield (
        "left out",
        [
            f"{counted(sum(stage.num_left_out for stage in found), 'more trial')} of "
            f"{counted(len(found), 'study')} within one standard error of the best on validation"
            + (f"; --most-finalists {max(free)} compares them, too" if free else "")
        ],
    )


def _repeats(stages: Sequence[StudyStage]) -> Iterator[tuple[str, list[str]]]:
    possible = sum(stage.num_possible for stage in stages)
    if possible:
        yield (
            "repeats",
            [
                f"up to {possible:,} of these runs: finalists that the folds cannot tell apart, "
                "with other seeds on the same folds"
            ],
        )


def _about(stages: Sequence[StudyStage], slots: Slots | None) -> str:
    seconds = [
        stage.num_left * stage.run_seconds for stage in stages if stage.run_seconds is not None
    ]
    if len(seconds) < len(stages):
        return "not known: the search did not keep how long its epochs took"
    abreast = 1 if slots is None else min(slots.num_slots, sum(s.num_left for s in stages))
    where = "in one slot" if slots is None else f"on {slots}"
    return (
        f"about {duration_text(sum(seconds) / abreast)} {where}, by the seconds that epochs of the "
        "search took; less where a finalist is clearly worse and stops"
    )


def _range_text(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers)) or [0]
    return " to ".join(str(n) for n in dict.fromkeys((found[0], found[-1])))


def study_sentences(stages: Sequence[StudyStage]) -> list[str]:
    """The same study by study."""
    at_work = [stage for stage in stages if stage.num_left]
    lines = []
    for stage in at_work:
        protocol = stage.protocol
        seeds = ",".join(map(str, protocol.seeds))
        finalists = " ".join(f"#{number}" for number in stage.finalists)
        near = counted(stage.num_left_out, "near-tie")
        lines.append(
            f"{stage.plan.name}: finalists {finalists} of {counted(stage.num_trials, 'trial')}, "
            f"{protocol.num_folds} folds, seeds {seeds}, "
            f"{_range_text(stage.epochs)} epochs"
            + (f", {near} left out" if stage.num_left_out else "")
            + (f", up to {counted(protocol.repeats, 'repeat')}" if protocol.repeats else "")
            + (f", round {stage.round}" if stage.round > 1 else "")
            + ("" if stage.begins else f", {counted(stage.num_left, 'run')} left")
        )
    return lines


def _standing_of(
    plan: SweepPlan,
    study: StudyPlan,
    record: Record,
    finals: FinalRecord,
    asked: Mapping[str, Any],
    again: bool,
) -> StudyStage:
    trials = record.trials(study.name)
    ended = sum(trial.state in FINISHED for trial in trials)
    round = finals.num_rounds(study.name)
    chosen = finals.chosen(study.name) if round else []
    begun = finals.protocol(study.name) if round else FinalProtocol()
    protocol = replace(begun, **asked)
    task = plan.task(study.task)
    now = finalists_of(trials, task, protocol)
    left_out = num_left_out(trials, task, now)
    if not chosen:
        return replace(
            _stage(plan, study, protocol, now, round=max(1, round), num_trials=ended),
            num_left_out=left_out,
        )
    outdated = []
    best = [trial.number for trial in finalists_of(trials, task, begun)]
    if best != chosen:
        outdated.append(
            f"its finalists were {_numbers(chosen)} when "
            f"{finals.num_trials_at_choice(study.name)} of {study.num_trials} trials had ended, "
            f"now with {ended} they are {_numbers(best)}"
        )
    before, after = asdict(begun), asdict(protocol)
    outdated += [f"{k} was {before[k]}, now {after[k]}" for k in before if before[k] != after[k]]
    left = finals.num_left(study.name)
    if again and not left and (failed := _failed(finals, study.name)):
        outdated.append(f"failed: {', '.join(failed)}")
    by_number = {trial.number: trial for trial in trials}
    finalists = now if outdated else [by_number[number] for number in chosen]
    return replace(
        _stage(plan, study, protocol, finalists, round=round, num_trials=ended),
        begins=False,
        num_left=left,
        num_possible=finals.num_possible(study.name),
        num_left_out=left_out if outdated else finals.num_left_out(study.name),
        outdated=outdated,
    )


def _failed(finals: FinalRecord, study: str) -> list[str]:
    """What of the newest round did not end well."""
    finalists = [
        f"finalist #{f.number}{f' with seed {len(f.trainings)}' if f.void else ''}"
        for f in finals.finalists(study)
        if f.state == "failed" or f.void
    ]
    seeds = [f"seed {run.seed}" for run in finals.final_runs(study) if run.state == "failed"]
    return finalists + seeds


def _stage(
    plan: SweepPlan,
    study: StudyPlan,
    protocol: FinalProtocol,
    finalists: Sequence[TrialRecord],
    *,
    round: int,
    num_trials: int,
) -> StudyStage:
    """A round that begins."""
    method = plan.parsed_spaces[study.space].method
    epochs = [build(method, t.config, source=study.name)[1].epochs for t in finalists]
    num_seeds = len(protocol.seeds) if finalists else 0
    return StudyStage(
        plan=study,
        protocol=protocol,
        round=round,
        begins=True,
        finalists=[trial.number for trial in finalists],
        num_left=protocol.num_runs(len(finalists)) + num_seeds,
        num_possible=protocol.num_possible(len(finalists)),
        epochs=epochs,
        num_trials=num_trials,
        run_seconds=_run_seconds(plan.task(study.task), finalists, epochs),
    )


def _run_seconds(
    task: TaskPlan, finalists: Sequence[TrialRecord], epochs: Sequence[int]
) -> float | None:
    """On train and val together, which is more than the search trained on."""
    more = (task.num_train + task.num_val) / task.num_train
    told = [
        trial.facts["wall_seconds"] / len(trial.curve) * num_epochs * more
        for trial, num_epochs in zip(finalists, epochs, strict=True)
        if trial.curve and trial.facts.get("wall_seconds") is not None
    ]
    return fmean(told) if told else None


def _begun_anew(stage: StudyStage, finals: FinalRecord) -> StudyStage:
    protocol = stage.protocol
    return replace(
        stage,
        round=finals.num_rounds(stage.plan.name) + 1,
        begins=True,
        num_left=protocol.num_runs(len(stage.finalists)) + len(protocol.seeds),
        num_possible=protocol.num_possible(len(stage.finalists)),
        outdated=(),
    )


def _refuse_unfinished(stages: Sequence[StudyStage], folder: Path) -> None:
    cut_off = [s for s in stages if not s.is_over and s.num_trials < s.plan.num_trials]
    if cut_off:
        told = [
            f"{stage.plan.num_trials - stage.num_trials} of {stage.plan.num_trials} trials of "
            f"{stage.plan.name}"
            for stage in cut_off
        ]
        raise ValueError(
            f"the search is not over, left are {', '.join(_first(told))}: go on with "
            f"`orchestrator resume {folder}`, or take the best so far with --unfinished, which is "
            "recorded; nothing was started"
        )


def _first(told: Sequence[str]) -> list[str]:
    more = len(told) - SHOWN
    return [*told[:SHOWN], f"and {more} more"] if more > 0 else list(told)


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(f"#{number}" for number in numbers) or "none"
