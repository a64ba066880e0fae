"""What stops weak trials: one file per pruner, one line each in the list below.

The options of `orchestrator sweep`, their help and their checks, the entry of sweep.yaml and the
epochs at which a trial is judged are all made from these dataclasses.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from orchestrator.plan.pruners.hyperband import Hyperband
from orchestrator.plan.pruners.median import Median
from orchestrator.plan.pruners.none import NoPruner
from orchestrator.plan.pruners.patient import Patient
from orchestrator.plan.pruners.pruner import Pruner
from orchestrator.plan.pruners.successive_halving import SuccessiveHalving
from orchestrator.plan.pruners.wilcoxon import Wilcoxon

_ALL: tuple[type[Pruner], ...] = (
    SuccessiveHalving,
    Median,
    Hyperband,
    Patient,
    NoPruner,
    Wilcoxon,
)

PRUNERS: dict[str, type[Pruner]] = {kind.name: kind for kind in _ALL}
"""By name, the default first."""

__all__ = ["PRUNERS", "Pruner", "current_entry", "entry_of"]


def entry_of(pruner: Pruner) -> dict[str, Any]:
    """What a plan says of its pruner; without `freeze` where it is off, as before there was one."""
    entry = asdict(pruner)
    return entry if pruner.freezes else {k: v for k, v in entry.items() if k != "freeze"}


def current_entry(entry: Any) -> Any:
    """What a plan says of its pruner, without the fields that it does not have.

    Until each pruner had fields of its own, every entry named a `reduction_factor` and
    `first_rung_epochs`, which the median pruner and none do without.
    """
    if not isinstance(entry, Mapping):
        return entry
    kind = PRUNERS.get(str(entry.get("name")))
    known = {f.name for f in fields(kind)} if kind else set()  # type: ignore[arg-type]
    unused = {"reduction_factor", "first_rung_epochs"} - known if kind else set()
    return {key: value for key, value in entry.items() if key not in unused}
