"""The forecast of a planned sweep: measures here what has to be measured, and asks what was
recorded."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from orchestrator.cluster.slots import Slots
from orchestrator.data.cache import ImageCache
from orchestrator.data.suites import Suite
from orchestrator.plan.expected_epochs import Curve
from orchestrator.plan.plan import SweepPlan
from orchestrator.record.curves import RecordedTrial, read_curves
from orchestrator.run.calibration import Calibration, at_a_glance, calibrate, without_times
from orchestrator.run.engine import Engine
from orchestrator.run.forecast import Forecast, Recorded, forecast
from orchestrator.run.trial_context import context_of
from orchestrator.training.context import TrialContext

logger = logging.getLogger(__name__)

SMALL = {"cpu": 1e10, "cuda": 2e14}
"""Images that all trials see, times the parameters of the backbone: of less work than this, a few
minutes, no forecast is made unless somebody asks for it."""

LONG_HOURS = 0.5
"""Of a longer sweep the half a minute of a careful measurement is less than 2 %."""


def foresee(
    plan: SweepPlan,
    suite: Suite,
    engine: Engine,
    *,
    cache: ImageCache,
    cluster: str | None = None,
    price_per_hour: float | None = None,
) -> Forecast:
    """As well as half a minute can tell. Of a sweep on a `cluster`, at this address, epochs alone:
    how fast its machines are cannot be seen from here."""
    if cluster:
        why = f"it would have to be measured on the machines of the cluster {cluster}"
        calibration = without_times(plan, why)
    else:
        calibration = _tried(
            plan,
            lambda: calibrate(plan, *_where(plan, suite, engine, cache), with_ray=engine.is_apart),
        )
    return _forecast(plan, engine, calibration, price_per_hour)


def foresee_at_a_glance(
    plan: SweepPlan,
    suite: Suite,
    engine: Engine,
    *,
    cache: ImageCache,
    cluster: str | None = None,
    price_per_hour: float | None = None,
) -> Forecast | None:
    """In a second or two where the sweep is short, else as `foresee`; None: it is hardly worth
    that."""
    device = engine.slots.device
    if _work(plan) < SMALL[device]:
        return None
    if device == "cpu" and not cluster:
        context, _ = _where(plan, suite, engine, cache)
        calibration = _tried(plan, lambda: at_a_glance(plan, context))
        found = _forecast(plan, engine, calibration, price_per_hour)
        if found.hours is None or found.hours < LONG_HOURS:
            return found
    return foresee(plan, suite, engine, cache=cache, cluster=cluster, price_per_hour=price_per_hour)


def _where(
    plan: SweepPlan, suite: Suite, engine: Engine, cache: ImageCache
) -> tuple[TrialContext, Slots]:
    """What its trials share, and where they run."""
    return context_of(plan, suite, engine.slots, cache), engine.slots


def _tried(plan: SweepPlan, measure: Callable[[], Calibration]) -> Calibration:
    """A sweep is not to be lost for its forecast: what goes wrong with one is said in it."""
    try:
        return measure()
    except Exception as error:
        logger.info("no forecast", exc_info=True)
        reason = str(error).strip().partition("\n")[0]
        return without_times(plan, f"it could not be measured ({reason})")


def _forecast(
    plan: SweepPlan, engine: Engine, calibration: Calibration, price_per_hour: float | None
) -> Forecast:
    return forecast(
        plan,
        engine.slots,
        calibration,
        _recorded(plan),
        with_ray=engine.is_apart,
        price_per_hour=price_per_hour,
    )


def _work(plan: SweepPlan) -> float:
    """Without pruning."""
    images = sum(
        study.num_trials * _planned_epochs(plan, study.space) * plan.task(study.task).num_train
        for study in plan.studies
    )
    return float(images) * plan.backbone.num_parameters


def _planned_epochs(plan: SweepPlan, space: str) -> int:
    epochs = plan.parsed_spaces[space].unsearched["epochs"]
    assert isinstance(epochs, int)
    return epochs


def _recorded(plan: SweepPlan) -> Recorded:
    """Of each space its own curves, or else those of its method, or else all."""
    studies: dict[tuple[str, str], dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for trial in _shipped_curves():
        if trial.failure is None:
            studies[trial.space, trial.method][trial.task].append(trial.val_accuracy)
    found: dict[str, list[list[Curve]]] = {}
    for name, space in plan.parsed_spaces.items():
        alike = [key for key in studies if key[0] == name]
        alike = alike or [key for key in studies if key[1] == space.method] or list(studies)
        found[name] = [curves for key in alike for curves in studies[key].values()]
    return found


def _shipped_curves() -> Sequence[RecordedTrial]:
    try:
        return read_curves().trials
    except ValueError:  # a copy of this package without them
        return ()
