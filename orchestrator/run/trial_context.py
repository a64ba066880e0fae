"""What all trials of a sweep share, from its plan and its machines."""

from orchestrator.cluster.slots import Slots
from orchestrator.data.cache import ImageCache
from orchestrator.data.suites import Suite
from orchestrator.plan.plan import SweepPlan
from orchestrator.training.context import TrialContext
from orchestrator.training.own_methods import planned_methods


def context_of(plan: SweepPlan, suite: Suite, slots: Slots, cache: ImageCache) -> TrialContext:
    """Of the search; the last stage has another."""
    return TrialContext.of(
        plan.backbone,
        suite.tasks,
        fingerprints=plan.fingerprints,
        metrics=plan.metrics,
        cache=cache,
        pruner=plan.pruner,
        own_methods=planned_methods(plan.own_methods),
        device=slots.device,
        cpu_threads=slots.cpu_threads,
        gpu_share=slots.gpu_share,
        engine=plan.engine,
    )
