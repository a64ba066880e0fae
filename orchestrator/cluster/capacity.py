"""The machines that a cluster has, and those that its autoscaler may start beside them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster.slots import Machine

BOOTSTRAP_CONFIG = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` puts the cluster's file on its head."""


def may_have(config: Mapping[str, Any], gpu_kind: str | None = None) -> list[Machine]:
    """The workers that the autoscaler of this cluster file may start; only those of a kind."""
    left, machines = config.get("max_workers", 0), []
    for number, machine in _types(config):
        if gpu_kind in (None, machine.gpu_kind):
            number = left if number is None else min(left, number)
            machines += [machine] * number
            left -= number
    return machines


def _types(config: Mapping[str, Any]) -> list[tuple[int | None, Machine]]:
    """The kinds of workers, those with most GPUs first, with how many there may be of each."""
    head = config.get("head_node_type")
    kinds = [kind for name, kind in config.get("available_node_types", {}).items() if name != head]
    types = [(kind.get("max_workers"), Machine.of_ray(kind["resources"])) for kind in kinds]
    return sorted(types, key=lambda found: found[1].gpus, reverse=True)


def grown(machines: Sequence[Machine], gpu_kind: str | None = None) -> list[Machine]:
    """These, and what this head's autoscaler may start beside them; only those of a kind."""
    kinds = {(machine.cpus, machine.gpus): machine.gpu_kind for machine in machines}
    possible = [
        # A cluster's file need not name the kind of GPU that its machines turn out to have.
        replace(m, gpu_kind=m.gpu_kind or kinds.get((m.cpus, m.gpus)))
        for m in may_have(_own_config(), gpu_kind)
    ]
    now = [machine for machine in machines if gpu_kind in (None, machine.gpu_kind)]
    return list((Counter(now) | Counter(possible)).elements())


def gpu_kinds(machines: Sequence[Machine]) -> set[str]:
    """The kinds of GPU of these machines, and of what this head's autoscaler may start."""
    possible = [*machines, *(machine for _, machine in _types(_own_config()))]
    return {machine.gpu_kind for machine in possible if machine.gpu_kind}


def _own_config() -> Mapping[str, Any]:
    path = BOOTSTRAP_CONFIG.expanduser()
    return yaml.safe_load(path.read_text()) if path.is_file() else {}
