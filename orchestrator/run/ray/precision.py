"""Measure precision and launch where trials will run: on a worker, not beside the driver.

A head without a GPU can tell nothing of one, and its processor need not be that of the workers.
"""

import copy
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.exceptions
from torch import nn

from orchestrator.cluster.sharing import Share
from orchestrator.cluster.slots import Slots
from orchestrator.plan.precision import (
    PrecisionChooser,
    candidates,
    choose_precision,
    chosen_without_timing,
)
from orchestrator.run.ray.start import start_ray
from orchestrator.support.phases import phase
from orchestrator.training.numerics import Engine


def on_a_worker(
    slots: Slots, ray_address: str, sweep: str, *, deadline: float | None
) -> PrecisionChooser:
    """Chooses as `choose_precision` does, in one of these slots of the cluster at `ray_address`.

    A slot is waited for, as the sweep itself would wait for it: until a machine has come up, or
    until another sweep on the cluster leaves one to `sweep`. ValueError if there is none by the
    `deadline` of the monotonic clock.
    """

    def choose(
        vit: nn.Module,
        engine: Engine,
        *,
        precision: str,
        launch: str,
        device: str,
        cpu_threads: int,
        images: int,
        say: Callable[[str], None],
    ) -> Engine:
        chosen = chosen_without_timing(
            vit, engine, precision=precision, launch=launch, device=device, say=say
        )
        if chosen is not None:
            return chosen
        say("precision: to be measured in a slot of the cluster, which is waited for")
        start_ray(slots, ray_address)
        share = Share(sweep, slots)
        share.announce(wanted=1)
        needs = slots.ray_resources
        # In a process of its own, or it would keep the GPU's memory and its place on that GPU.
        measure = ray.remote(max_calls=1)(_measure).options(
            num_cpus=needs.pop("cpu"), num_gpus=needs.pop("gpu"), resources=needs, max_retries=3
        )
        # Without its weights, on which no time depends.
        network = copy.deepcopy(vit).to("meta")
        asked = {
            "precision": precision,
            "launch": launch,
            "device": device,
            "cpu_threads": cpu_threads,
            "images": images,
            "num_slots": slots.num_slots,
        }
        try:
            with phase("measuring precision in a slot of the cluster, or waiting for one"):
                chosen, lines = ray.get(
                    measure.remote(network, engine, asked),
                    timeout=None if deadline is None else max(1.0, deadline - time.monotonic()),
                )
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"the precision could not be measured on the cluster ({reason}); "
                "--precision fp32 --launch graph is taken without a measurement"
            ) from error
        share.announce(wanted=1, running=1)  # it has one, until the sweep looks for itself
        for line in lines:
            say(line)
        return chosen

    return choose


def when_it_starts(
    vit: nn.Module,
    engine: Engine,
    *,
    precision: str,
    launch: str,
    device: str,
    cpu_threads: int,
    images: int,
    say: Callable[[str], None],
) -> Engine:
    """For a plan that is only looked at, for which no machine is started."""
    chosen = chosen_without_timing(
        vit, engine, precision=precision, launch=launch, device=device, say=say
    )
    if chosen is not None:
        return chosen
    say("precision: will be measured in a slot of the cluster when the sweep starts")
    return candidates(engine, precision, launch, device)[0]


def _measure(
    network: nn.Module, engine: Engine, asked: Mapping[str, Any]
) -> tuple[Engine, list[str]]:
    """On the worker: the way that is taken, and what is to be said of it."""
    network.to_empty(device="cpu")
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data.zero_()  # what happens to lie in memory may be slow to compute with
    lines: list[str] = []
    chosen = choose_precision(network, engine, say=lines.append, **asked)
    return chosen, [f"{line} (on {socket.gethostname()})" for line in lines]
