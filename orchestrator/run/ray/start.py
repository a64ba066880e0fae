"""Ray itself: started on this machine, or joined where a cluster runs."""

import logging

import ray

from orchestrator.cluster import joined_ray, own_ray
from orchestrator.cluster.capacity import gpu_kinds, grown
from orchestrator.cluster.sharing import machines_alive
from orchestrator.cluster.slots import Machine, Slots
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.phases import phase


def start_ray(slots: Slots, address: str | None) -> None:
    """Connect to the cluster at `address`, or start Ray on this machine for these slots.

    A process has one Ray: what was started for the search also serves the last stage.
    """
    if ray.is_initialized():
        return
    for name in ("ray.tune", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with phase(f"joining the Ray cluster {address}" if address else "starting Ray"):
        if address:
            joined_ray.connect(address)
        else:
            own_ray.start(slots)


def machines_of(address: str, gpu_kind: str | None = None) -> list[Machine]:
    """The machines that a running cluster has, or that its autoscaler may start.

    Only those with GPUs of a kind, where one is named; ValueError if there can be none.
    """
    connected = ray.is_initialized()  # by the search, which the last stage follows
    if not connected:
        joined_ray.connect(address)
    here = machines_alive()
    if not connected:
        ray.shutdown()
    machines = grown(here, gpu_kind)
    if gpu_kind and not machines:
        raise ValueError(unknown("--gpu-kind", gpu_kind, gpu_kinds(here)))
    return machines
