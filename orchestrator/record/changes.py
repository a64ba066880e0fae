"""What a sweep stands on must not change under it: compared when it is resumed.

Images, labels, weights, space, sampler and pruner are refused where they changed, since their
values could not be compared any more: that is another sweep. Other versions of the software may be
accepted, and the record says so.
"""

import logging

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import Record, differences
from orchestrator.training.backbone import load_planned_backbone
from orchestrator.training.named_methods import warn_of_changed_files
from orchestrator.training.own_methods import planned_methods
from orchestrator.training.versions import versions

logger = logging.getLogger(__name__)


def refuse_other_weights(plan: SweepPlan) -> None:
    """ValueError if the weights are gone, or are not those that were planned."""
    load_planned_backbone(plan.backbone, "cpu")


def refuse_changes(plan: SweepPlan, record: Record, *, accept_versions: bool) -> None:
    """ValueError if weights or software are not those that the trials so far were run with."""
    refuse_other_weights(plan)
    warn_of_changed_files(plan.own_methods)
    changes = _other_software(plan, record)
    if not changes:
        return
    if not accept_versions:
        raise ValueError(
            "the software changed since this sweep was begun:\n  "
            + "\n  ".join(changes)
            + "\ngo back to what it was, or go on with --accept-versions, which is recorded"
        )
    record.accept_versions(_versions_now(plan))
    logger.warning("going on with other software: %s", "; ".join(changes))


def warn_of_other_software(plan: SweepPlan, record: Record) -> None:
    """Say where a stage that trains anew does so otherwise than the search that it follows."""
    if changes := _other_software(plan, record):
        logger.warning("the search ran with other software: %s", "; ".join(changes))


def _other_software(plan: SweepPlan, record: Record) -> list[str]:
    return list(differences(record.accepted_versions() or plan.versions, _versions_now(plan)))


def _versions_now(plan: SweepPlan) -> dict[str, str]:
    return versions(planned_methods(plan.own_methods))
