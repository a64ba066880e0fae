"""What a sweep stands on must not change under it: compared when it is resumed.

Images, labels, weights, space, sampler and pruner are refused where they changed, since their
values could not be compared any more: that is another sweep. Other versions of the software may be
accepted, and the record says so.
"""

import logging

from orchestrator.backbone import load_planned_backbone
from orchestrator.plan import SweepPlan, versions
from orchestrator.record import Record, differences

logger = logging.getLogger(__name__)


def refuse_other_weights(plan: SweepPlan) -> None:
    """ValueError if the weights are gone, or are not those that were planned."""
    load_planned_backbone(plan.backbone, "cpu")


def refuse_changes(plan: SweepPlan, record: Record, *, accept_versions: bool) -> None:
    """ValueError if weights or software are not those that the trials so far were run with."""
    refuse_other_weights(plan)
    now = versions()
    changes = list(differences(record.accepted_versions() or plan.versions, now))
    if not changes:
        return
    if not accept_versions:
        raise ValueError(
            "the software changed since this sweep was begun:\n  "
            + "\n  ".join(changes)
            + "\ngo back to what it was, or go on with --accept-versions, which is recorded"
        )
    record.accept_versions(now)
    logger.warning("going on with other software: %s", "; ".join(changes))
