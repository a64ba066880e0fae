"""Training and validation loss of the best trial: whether it learned, and whether it overfitted."""

import math

from orchestrator.record.record import TrialRecord
from orchestrator.report.collect import StudyReport
from orchestrator.report.figure import Figure
from orchestrator.report.svg import Chart, LinearScale, LogScale, Point, across, upward

LOG_FROM = 10
"""Losses that differ so many times are put on a logarithmic axis."""


def losses(study: StudyReport) -> Figure:
    """Both losses of the best trial, epoch by epoch."""
    title, best = "Losses of the best trial", study.best
    train, val = ([] if best is None else _curve(best, name) for name in ("train_loss", "val_loss"))
    if best is None or not (train or val):
        reason = "no trial is complete yet" if best is None else "its losses were not kept"
        return Figure(title=title, svg=None, caption=f"Not shown, {reason}.")
    values = [loss for _, loss in (*train, *val)]
    low, high = min(values), max(values)
    is_wide = low > 0 and high / low > LOG_FROM
    room = 0.0 if is_wide else 0.04 * (high - low) or 0.5
    scale = LogScale if is_wide else LinearScale
    chart = Chart(
        LinearScale(0, max(epoch for epoch, _ in (*train, *val)), *across()),
        scale(low if is_wide else max(0.0, low - room), high + room, *upward()),
        "epoch",
        "loss, logarithmic" if is_wide else "loss",
    )
    for name, curve, look in (("train", train, "run s0"), ("val", val, "run s1 dash1")):
        if curve:
            chart.line(curve, look, f"{name} loss, at the end {curve[-1][1]:.3g}")
    return Figure(
        title=title,
        svg=chart.draw(f"Train and val loss of trial #{best.number}"),
        caption=f"Trial #{best.number}. {_told(train, val)}",
    )


def _told(train: list[Point], val: list[Point]) -> str:
    parts = []
    if train:
        parts.append(f"Solid, blue: train loss, at the end {train[-1][1]:.3g}.")
    if val:
        epoch, lowest = min(val, key=lambda point: point[1])
        end = val[-1][1]
        told = f"at the end {end:.3g}"
        if lowest < end:
            told += f", lowest after epoch {epoch:.0f} with {lowest:.3g}"
        parts.append(f"Dashed, orange: val loss, {told}.")
    return " ".join(parts)


def _curve(trial: TrialRecord, name: str) -> list[Point]:
    rows = ((row["epoch"], row.get(name, math.nan)) for row in trial.curve)
    return [(epoch, loss) for epoch, loss in rows if math.isfinite(loss)]
