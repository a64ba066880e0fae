"""The report, of a sweep or of one study, as an HTML file for disk, phone and print.

No address, no file beside it: everything stands in the page, and its policy forbids the rest. Its
one script, which sorts tables, is named in that policy by its digest. Whatever comes from files
goes through the template's autoescape.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from orchestrator.plan.final_protocol import times_opened
from orchestrator.record.record import TrialRecord
from orchestrator.report.by_class import NOT_KEPT, class_table
from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.compute_figure import best_over_compute
from orchestrator.report.convergence import convergence
from orchestrator.report.figures import Figure, study_figures
from orchestrator.report.final import caveats
from orchestrator.report.findings import headlines, remarks
from orchestrator.report.method_looks import looks
from orchestrator.report.prompts_vs_baselines import prompts_verdict
from orchestrator.report.scores_figure import scores_by_task
from orchestrator.report.svg import sample_of
from orchestrator.report.table import Cell, Row, Table, result_tables
from orchestrator.report.tested import cautions_on_test
from orchestrator.report.time_figures import time_figures
from orchestrator.report.wording import duration_text, percent
from orchestrator.support.counted import counted
from orchestrator.support.foreign_text import visible
from orchestrator.support.shown_values import NOTHING, config_text, value_text
from orchestrator.support.yaml_io import dump_yaml

OPEN_UP_TO = 4
"""Studies of a small sweep are shown at once, those of a large one when asked for."""

CLASSES_OPEN_UP_TO = 10
"""Likewise of classes."""


@dataclass(frozen=True, kw_only=True)
class _Study:
    """What the page says of a study."""

    name: str
    space: str
    anchor: str
    best: str
    sentences: Sequence[str]
    figures: Sequence[Figure]
    trials: Table
    classes: Table | None
    no_classes: str
    """Why there is no table of classes, where one would be."""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A line of a key."""

    name: str
    sample: Markup


_KINDS = {
    "complete": "complete",
    "the best": "best",
    "pruned": "pruned",
    "failed": "failed",
    "running": "running",
}

LR_NOTE = (
    "lr: as drawn, for 256 images; the step size of an epoch (scaled_lr) is what batch size and "
    "schedule make of it."
)


def page(report: SweepReport) -> str:
    """The HTML of a whole sweep."""
    return _render(
        "page.html.jinja",
        title=report.plan.name,
        facts=_facts(report),
        methods=[_Kind(name=look.space, sample=_markup(look.sample)) for look in looks(report)],
        main_figures=[_drawn(f) for f in (scores_by_task(report), best_over_compute(report))],
        headlines=headlines(report),
        tables=result_tables(report),
        tasks=[
            {
                "name": task.name,
                "worth": prompts_verdict(report, task.name),
                "studies": [
                    _study(study, by_class=study is report.best_of_task(task.name))
                    for study in report.of_task(task.name)
                ],
            }
            for task in report.plan.tasks
        ],
        open=len(report.studies) <= OPEN_UP_TO,
        time_figures=[_drawn(figure) for figure in time_figures(report)],
        time_table=time_table(report),
        failures=failure_table(report),
        spaces={name: dump_yaml(dict(space)) for name, space in report.plan.spaces.items()},
        versions=report.plan.versions,
    )


def study_page(study: StudyReport) -> str:
    """The HTML of one study; equal trials give equal pages."""
    space = dump_yaml(dict(study.space.document))
    return _render("study.html.jinja", study=_study(study, by_class=True), space=space)


def _render(template: str, **content: Any) -> str:
    environment = Environment(
        loader=PackageLoader("orchestrator", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = _with_code
    ours = resources.files("orchestrator.report")
    script = (ours / "page.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        style=_markup((ours / "page.css").read_text(encoding="utf-8")),
        script=_markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        states=[_Kind(name=name, sample=_markup(sample_of(kind))) for name, kind in _KINDS.items()],
        classes_open_up_to=CLASSES_OPEN_UP_TO,
        **content,
    )


def _shown(value: Any) -> Any:
    """Text without characters that would turn what stands beside it; markup as it is."""
    return visible(value, lines=True) if type(value) is str else value


def _with_code(text: str) -> Markup:
    """What stands in `backquotes` as code."""
    return _markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))


def _markup(ours: str) -> Markup:
    """What we wrote ourselves, or have escaped."""
    return Markup(ours)  # noqa: S704


def time_table(report: SweepReport) -> Table:
    """What pruning spared, per study, and how long the workers took."""
    rows = []
    for study in report.studies:
        run, planned = study.epochs_run_and_planned
        states = [str(study.states[state]) for state in ("complete", "pruned", "failed")]
        cells = [
            *states,
            f"{run} / {planned}",
            f"{100 * study.saved_share:.0f} %" if study.saved_share is not None else NOTHING,
            *(duration_text(seconds) for seconds in study.seconds.values()),
        ]
        name = Cell(text=study.name, anchor=study.anchor)
        rows.append(Row(cells=[name, *(Cell(text=text) for text in cells)]))
    return Table(
        title="Pruning and time by study",
        columns=[
            *("study", "complete", "pruned", "failed", "epochs run / planned", "spared"),
            *("setup", "train", "eval", "other"),
        ],
        rows=rows,
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


def _facts(report: SweepReport) -> Mapping[str, str]:
    plan = report.plan
    pruner = plan.pruner
    stops = "" if pruner.first_epoch is None else f" from epoch {pruner.first_epoch}"
    span = report.span
    return {
        "suite": f"{plan.suite}, {counted(len(plan.tasks), 'task')}",
        "backbone": f"{plan.backbone.name} at {plan.backbone.image_size} pixels, "
        f"{plan.backbone.num_parameters / 1e6:.1f} M parameters, "
        f"weights {plan.backbone.weights_sha256[:12]}",
        "search": f"{counted(plan.num_trials, 'trial')} in "
        f"{counted(len(plan.studies), 'study')}, sampler "
        f"{plan.sampler}, pruner {pruner.name}{stops}, seed {plan.seed}",
        "planned": f"{datetime.fromisoformat(plan.created):%Y-%m-%d %H:%M} UTC",
        "time": f"{duration_text((span[1] - span[0]).total_seconds())} from first start to last end"
        if span
        else "no trial has ended yet",
        "this page": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def _study(study: StudyReport, *, by_class: bool) -> _Study:
    """With the accuracies by class only where asked for: they would make a large page larger."""
    best = study.best
    classes = class_table(study) if by_class else None
    if best is None:
        told = "no complete trial yet"
        sentences = [convergence(study).sentence]
    else:
        told = f"val {study.val_text} {study.task.objective.unit}"
        found = config_text(study.searched(best)) or "nothing searched"
        unit = study.task.objective.unit
        sentences = [
            f"Best in the search: trial #{best.number}, {study.val_text} {unit} on validation"
            f"{_majority(study.task.val_majority_share)}, with {found}.",
            convergence(study).sentence,
            *_final_sentence(study),
            *remarks(study),
        ]
    return _Study(
        name=study.name,
        space=study.plan.space,
        anchor=study.anchor,
        best=told,
        sentences=sentences,
        figures=[_drawn(figure) for figure in study_figures(study)],
        trials=_trials(study),
        classes=classes,
        no_classes=NOT_KEPT if by_class and best is not None and classes is None else "",
    )


def _final_sentence(study: StudyReport) -> Iterator[str]:
    if study.final is None or study.chosen is None:
        return
    if study.final.why:
        yield f"Finalists: {study.final.why}."
    runs = study.final.test_accuracies
    if runs:
        each = ", ".join(f"{percent(value)} (seed {seed})" for seed, value in runs.items())
        yield (
            f"Trial #{study.chosen.number} on test images"
            f"{_majority(study.final.test_majority_share)}: {study.test_text} "
            f"{study.task.objective.unit}, by seed {each}."
        )
        if study.final.num_openings == 1:
            yield times_opened(1)
    if study.test_interval is not None:
        low, high = study.test_interval
        assert study.final is not None
        yield (
            f"For {counted(len(runs), 'seed')} and "
            f"{counted(study.final.num_test or 0, 'test image')} the 95 % interval of "
            f"that mean is {percent(low)} to {percent(high)} %."
        )
    yield from caveats(study.final)
    if not study.final_is_current:
        yield from cautions_on_test([study])


def _majority(share: float | None) -> str:
    told = f"always answering the most frequent class: {percent(share)} %"
    return "" if share is None else f" ({told})"


def _drawn(figure: Figure) -> Any:
    """With its SVG as markup: `svg.py` has escaped what stands in it."""
    svg = figure.svg and _markup(figure.svg)
    return {"title": figure.title, "svg": svg, "caption": figure.caption}


def _trials(study: StudyReport) -> Table:
    names = [dimension.name for dimension in study.space.dimensions]
    ranked = sorted(study.trials, key=lambda t: (t.state != "complete", -(t.val_accuracy or 0.0)))
    return Table(
        title=counted(len(study.trials), "trial"),
        columns=["trial", "state", "val %", "epochs", "time", *names],
        notes=[LR_NOTE] if "lr" in names else [],
        rows=[Row(cells=[Cell(text=text) for text in _trial_row(t, names)]) for t in ranked],
        wordy=frozenset({"state"}),
    )


def _trial_row(trial: TrialRecord, names: Sequence[str]) -> list[str]:
    seconds = trial.facts.get("wall_seconds")
    return [
        f"#{trial.number}",
        trial.state,
        percent(trial.val_accuracy),
        str(len(trial.curve)),
        NOTHING if seconds is None else duration_text(seconds),
        *(value_text(trial.config.get(name)) for name in names),
    ]
