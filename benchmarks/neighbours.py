"""Trials side by side on one device, in processes of their own: steps per second of all together.

    python benchmarks/neighbours.py --backbone vit_tiny_patch16_224
    python benchmarks/neighbours.py --backbone vit_base_patch16_224 --processes 1 2 --ways graph

Each process trains its own VPT-Deep on its own images, as the workers of a sweep with
`--gpus-per-trial 0.25` do. All are started and warmed up once; then so many of them as a line says
train for `--seconds`, the others wait. As in an epoch, a process waits for the device after every
ten steps. The device takes turns among processes unless NVIDIA's multi-process service (MPS) joins
them into one: lines with `mps` are under a service that is started for them, in a folder of its
own, and stopped after them. Nothing of the device's settings is changed.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from launch import WAYS, ready
from step import NUM_CLASSES, backbone, machine
from timm.models import VisionTransformer

from methods import VPT, tune
from orchestrator.support.side_by_side import Team, TeamFailed, Turns, team
from orchestrator.training.numerics import PRECISIONS, Engine

SERVICES = ("none", "mps")
STEPS = 10
"""After so many a process waits for the device, as at the end of a short epoch."""
SERVICE_SECONDS = 15.0
"""So long the service may take to start, and as long to stop."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """So many processes, and what they do together."""

    service: str
    way: str
    processes: int
    steps_per_second: float
    """Of all of them."""
    gain: float
    """Over the first line of the same way."""


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    print(f"{options.backbone}, {vars(options)}", flush=True)
    # Before processes are forked off: without its weights, which each makes up for itself.
    with torch.device("meta"):
        network = backbone(options.backbone)
    deadline = time.monotonic() + options.at_most
    rows: list[Row] = []
    problems: list[str] = []
    for service in options.services:
        if service == "mps" and shutil.which(_CONTROL) is None:
            print(f"\nmps: left out, there is no {_CONTROL} on this machine")
            continue
        try:
            with (
                multi_process_service() if service == "mps" else nullcontext() as environment,
                team(
                    partial(_turns, network, options),
                    max(options.processes),
                    deadline=deadline,
                    environment=environment,
                ) as processes,
            ):
                _measure(processes, service, options, rows)
        except (TeamFailed, RuntimeError) as error:
            problems.append(f"{service}: {error}")
            print(problems[-1], flush=True)
    if problems:
        raise SystemExit("not all was measured: " + "; ".join(problems))
    return rows


def _measure(processes: Team, service: str, options: argparse.Namespace, rows: list[Row]) -> None:
    about = {"machine": processes.result("machine"), **vars(options)}
    print(f"\n{about['machine']}\n")
    print("| service | way | processes | steps/s | gain |\n|---|---|---|---|---|", flush=True)
    for way in options.ways:
        for count in options.processes:
            taken = STEPS * processes.turns_per_second(way, count, options.seconds)
            first = next((row for row in rows if row.way == way), None)
            gain = taken / first.steps_per_second if first else 1.0
            row = Row(service=service, way=way, processes=count, steps_per_second=taken, gain=gain)
            rows.append(row)
            print(f"| {service} | {way} | {count} | {taken:.1f} | {gain:.2f} |", flush=True)
            if options.json:
                document = {**about, "rows": [asdict(row) for row in rows]}
                options.json.write_text(json.dumps(document, indent=2, default=str))
    print(f"each process holds {processes.result('memory_mib'):.0f} MiB of the device", flush=True)


_CONTROL = "nvidia-cuda-mps-control"


@contextmanager
def multi_process_service() -> Iterator[Mapping[str, str]]:
    """NVIDIA's multi-process service, for processes with this environment.

    RuntimeError where it does not start.
    """
    control = shutil.which(_CONTROL)
    if control is None:
        raise RuntimeError(f"there is no {_CONTROL} on this machine")
    with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        told = partial(_told, control, environment=os.environ | places)
        try:
            if failure := told("-d"):
                raise RuntimeError(f"{_CONTROL} -d: {failure}")
            yield places
        finally:
            if (failure := told(asked="quit -t 5\n")) is not None:
                print(f"mps: did not stop in order ({failure}); its processes are killed")
            _kill_those_of(folder)


def _told(control: str, *words: str, environment: Mapping[str, str], asked: str = "") -> str | None:
    """Why the control program did not do it; None: it did."""
    try:
        done = subprocess.run(
            [control, *words],
            input=asked,
            env=environment,
            text=True,
            # A file: the daemon would hold a pipe open for as long as it lives.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SERVICE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SERVICE_SECONDS:.0f} s"
    return f"it ended with code {done.returncode}" if done.returncode else None


def _kill_those_of(folder: str) -> None:
    """What is left of the service, which nothing else was started with."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("CUDA_MPS_PIPE_DIRECTORY") == folder:
                process.kill()


def _turns(network: VisionTransformer, options: argparse.Namespace) -> Turns:
    """In a process: ten steps of each way, and what there is to know."""
    torch.set_num_threads(1)
    vit = network.to_empty(device=options.device)
    for tensor in (*vit.parameters(), *vit.buffers()):
        tensor.data.normal_(std=0.02)
    engine = Engine(precision=options.precision)
    engine.cast_frozen(vit)
    images = torch.randn(options.batch, 3, *vit.patch_embed.img_size, device=options.device)
    labels = torch.arange(options.batch, device=options.device) % NUM_CLASSES
    turns: dict[str, Any] = {"machine": machine, "memory_mib": partial(_memory_mib, options.device)}
    for way in options.ways:
        model = tune(vit, VPT(num_tokens=options.tokens), num_classes=NUM_CLASSES)
        model.to(options.device)
        launch = ready(way, model, images, labels, engine)

        def turn(launch: Any = launch) -> None:
            for _ in range(STEPS):
                launch()
            if options.device == "cuda":
                torch.cuda.synchronize()

        turn()
        turns[way] = turn
    return turns


def _memory_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_reserved() / 2**20
    return psutil.Process().memory_info().rss / 2**20


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="vit_tiny_patch16_224", help="a timm name, or tiny")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--services", nargs="+", choices=SERVICES, default=list(SERVICES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["graph"])
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64, help="of one trial")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one line")
    parser.add_argument("--at-most", type=float, default=60.0, help="seconds of the whole program")
    parser.add_argument("--json", type=Path, help="write everything to this file, line by line")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
