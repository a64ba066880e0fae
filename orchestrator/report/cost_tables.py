"""What the trials of a sweep cost, and which of them failed, as tables."""

from orchestrator.report.collect import SweepReport
from orchestrator.report.hours import CPU, device_hours
from orchestrator.report.table import Cell, Row, Table
from orchestrator.report.wording import duration_text
from orchestrator.support.shown_values import NOTHING, config_text, number_text

HOURS = (
    "hours: of the search, without the last stage. A trial on a part of a GPU counts by the part "
    "that the plan gave it, one on a CPU by its threads."
)


def time_table(report: SweepReport) -> Table:
    """What pruning spared, per study, and how long the workers took."""
    rows = []
    trials = [trial for study in report.studies for trial in study.trials]
    devices = {each.device for each in device_hours(trials, report.plan.gpu_share)}
    kind = "CPU" if devices == {CPU} else "GPU" if CPU not in devices else "device"
    for study in report.studies:
        run, planned = study.epochs_run_and_planned
        states = [str(study.states[state]) for state in ("complete", "pruned", "failed")]
        cells = [
            *states,
            f"{run} / {planned}",
            f"{100 * study.saved_share:.0f} %" if study.saved_share is not None else NOTHING,
            *(duration_text(seconds) for seconds in study.seconds.values()),
        ]
        spent = device_hours(study.trials, report.plan.gpu_share)
        hours = sum(each.hours for each in spent)
        name = Cell(text=study.name, anchor=study.anchor)
        times = [None] * 5 + list(study.seconds.values())
        rows.append(
            Row(
                cells=[
                    name,
                    *(
                        Cell(text=text, value=seconds)
                        for text, seconds in zip(cells, times, strict=True)
                    ),
                    Cell(text=number_text(hours) if spent else NOTHING),
                ]
            )
        )
    return Table(
        title="Pruning and time by study",
        columns=[
            *("study", "complete", "pruned", "failed", "epochs run / planned", "spared"),
            *("setup", "train", "eval", "other"),
            f"{kind} hours",
        ],
        rows=rows,
        notes=[HOURS],
    )


def failure_table(report: SweepReport) -> Table | None:
    """Trials that failed, with their reasons; None if there are none."""
    by_name = {study.name: study for study in report.studies}
    rows = [
        Row(
            cells=[
                Cell(text=trial.study, anchor=by_name[trial.study].anchor),
                Cell(text=f"#{trial.number}"),
                Cell(text=trial.failure or "no reason recorded"),
                Cell(text=str(len(trial.curve))),
                Cell(text=config_text(by_name[trial.study].searched(trial))),
            ]
        )
        for trial in report.failures
    ]
    if not rows:
        return None
    return Table(
        title="Failures",
        columns=["study", "trial", "reason", "epochs", "configuration"],
        rows=rows,
        wordy=frozenset({"reason", "configuration"}),
    )
