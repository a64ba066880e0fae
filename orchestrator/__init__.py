"""Ray Tune, Optuna and MLflow run prompt-tuning trials: plan, schedule, record, track, export.

    from orchestrator import Sweep, load_bundle

    sweep = Sweep.plan("quickstart", methods=["linear", "vpt_deep"])
    sweep.run()
    sweep.table()
    load_bundle(sweep.folder / "best" / "digits.yaml").predict(["new.png"])

docs/python.md has more. What stands in `__all__` is the interface that programs may rely on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchestrator.support.own_process import prepare

if TYPE_CHECKING:
    from orchestrator.api.sweep import Sweep
    from orchestrator.bundle import load_bundle
    from orchestrator.plan.space import SearchSpace

prepare()

__all__ = ["SearchSpace", "Sweep", "load_bundle"]

_WHERE = {
    "SearchSpace": "orchestrator.plan.space",
    "Sweep": "orchestrator.api.sweep",
    "load_bundle": "orchestrator.bundle",
}
"""Imported when they are asked for: they bring torch with them."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
