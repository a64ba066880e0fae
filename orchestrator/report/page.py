"""The report, of a sweep or of one study, as an HTML file for disk, phone and print.

No address, no file beside it: everything stands in the page, and its policy forbids the rest. Its
one script, which sorts tables, is named in that policy by its digest. Whatever comes from files
goes through the template's autoescape.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import TrialRecord
from orchestrator.report.all_tables import all_tables
from orchestrator.report.bundle_files import Bundles
from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.compute_figure import best_over_compute
from orchestrator.report.cost_tables import failure_table, time_table
from orchestrator.report.findings import headlines
from orchestrator.report.hours import device_hours, hours_text
from orchestrator.report.method_looks import looks
from orchestrator.report.prompts_vs_baselines import prompts_verdict
from orchestrator.report.scores_figure import scores_by_task
from orchestrator.report.study_section import study_section
from orchestrator.report.svg import sample_of
from orchestrator.report.time_figures import time_figures
from orchestrator.report.wording import duration_text
from orchestrator.support.counted import counted
from orchestrator.support.foreign_text import visible
from orchestrator.support.yaml_io import dump_yaml

OPEN_UP_TO = 4
"""Studies of a small sweep are shown at once, those of a large one when asked for."""

CLASSES_OPEN_UP_TO = 10
"""Likewise of classes."""


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


def page(report: SweepReport, bundles: Bundles | None = None) -> str:
    """The HTML of a whole sweep; `bundles` are the files of its best trials."""
    bundles = bundles or Bundles()
    return _render(
        "page.html.jinja",
        title=report.plan.name,
        facts=_facts(report),
        methods=[_Kind(name=look.space, sample=_markup(look.sample)) for look in looks(report)],
        best_bundles=bundles.best,
        no_bundles=bundles.why_not,
        main_figures=[scores_by_task(report), best_over_compute(report)],
        headlines=headlines(report),
        tables=all_tables(report),
        tasks=[
            {
                "name": task.name,
                "worth": prompts_verdict(report, task.name),
                "studies": [
                    study_section(
                        study,
                        by_class=study is report.best_of_task(task.name),
                        bundle=bundles.of_studies.get(study.name),
                    )
                    for study in report.of_task(task.name)
                ],
            }
            for task in report.plan.tasks
        ],
        open=len(report.studies) <= OPEN_UP_TO,
        time_figures=time_figures(report),
        time_table=time_table(report),
        failures=failure_table(report),
        spaces={name: dump_yaml(dict(space)) for name, space in report.plan.spaces.items()},
        versions=report.plan.versions,
    )


def study_page(study: StudyReport) -> str:
    """The HTML of one study; equal trials give equal pages."""
    space = dump_yaml(dict(study.space.document))
    return _render("study.html.jinja", study=study_section(study, by_class=True), space=space)


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
    environment.filters["ours"] = _markup
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
        "compute": _hours(report.plan, [t for study in report.studies for t in study.trials])
        or "not known",
        "this page": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def _hours(plan: SweepPlan, trials: Sequence[TrialRecord]) -> str:
    return hours_text(device_hours(trials, plan.gpu_share))
