"""Whether the parts of a cluster can be reached, and what it has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.cluster.capacity import grown
from orchestrator.cluster.slots import Machine, in_all
from orchestrator.support.counted import counted
from orchestrator.tracking.trackers import chosen_tracker


@dataclass(frozen=True, kw_only=True)
class ClusterPart:
    """One part of a cluster."""

    part: str
    reached: bool
    text: str


def reach(
    storage_url: str | None, tracking_uri: str | None, ray_address: str | None
) -> list[ClusterPart]:
    """Whether storage, tracker and Ray answer, as a sweep started here would find them."""
    tracker = chosen_tracker()
    return [
        _find("storage", storage_url, "ORCHESTRATOR_STORAGE", _reach_storage),
        _find(tracker.name, tracking_uri, tracker.variable, tracker.reach),
        _find("Ray", ray_address, "RAY_ADDRESS", _reach_ray),
    ]


def _find(
    part: str, address: str | None, variable: str, probe: Callable[[str], str]
) -> ClusterPart:
    if not address:
        text = f"{variable} is not set: a sweep would make its own on this machine"
        return ClusterPart(part=part, reached=False, text=text)
    try:
        return ClusterPart(part=part, reached=True, text=probe(address))
    except Exception as error:  # three libraries and their transports raise many kinds
        reason = str(error).strip() or type(error).__name__
        return ClusterPart(part=part, reached=False, text=reason.splitlines()[0])


def _reach_storage(url: str) -> str:
    import optuna

    from orchestrator.record.database import open_storage, without_password

    names = optuna.get_all_study_names(open_storage(url))
    sweeps = {name.partition("/")[0] for name in names}
    return f"{without_password(url)} answers and holds {counted(len(sweeps), 'sweep')}"


def _reach_ray(address: str) -> str:
    import ray

    from orchestrator.cluster.joined_ray import connect
    from orchestrator.cluster.sharing import current_claims, machines_alive

    connect(address)
    machines = machines_alive()
    sweeps = sorted(claim.sweep for claim in current_claims().values())
    ray.shutdown()
    return (
        f"{address} answers: {counted(len(machines), 'node')} with {_in_words(machines)}; "
        f"it may have {_in_words(grown(machines))}; "
        f"sweeps running on it: {', '.join(sweeps) or 'none'}"
    )


def _in_words(machines: Sequence[Machine]) -> str:
    total = in_all(machines)
    kinds = [f"{n:g} {name[4:]}" for name, n in sorted(total.items()) if name.startswith("GPU:")]
    of_kinds = f" ({', '.join(kinds)})" if kinds else ""
    return f"{total['CPU']:g} CPUs and {total['GPU']:g} GPUs{of_kinds}"
