"""What a machine is, and what its device does at best: one large matrix product.

    python benchmarks/peak.py --device cuda --json machine.json

The share of this peak that a training step reaches is what can still be gained. On a GPU the
product is one of bfloat16, 8192 by 8192.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from step import machine

from orchestrator.training.versions import versions

ROUNDS = 20
SIZE = {"cpu": 1024, "cuda": 8192}
DTYPE = {"cpu": torch.float32, "cuda": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=list(SIZE), default="cuda")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device here; --device cpu takes the CPU")
    found = {
        **machine(),
        "peak_tflops": matrix_peak(options.device) / 1e12,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions(),
        "device": options.device,
    }
    if options.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu_memory_gib": properties.total_memory / 2**30, "driver": _driver()}
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return found


def matrix_peak(device: str) -> float:
    """FLOP/s of a product: of the fastest, on a GPU of the median, whose first are too fast."""
    size = SIZE[device]
    a, b = (torch.randn(size, size, device=device, dtype=DTYPE[device]) for _ in range(2))
    if device == "cpu":
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - started)
        return 2 * size**3 / min(seconds)
    # On the device's own clock: a slow CPU needs longer to launch a product than it runs.
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(ROUNDS + 1)]
    for _ in range(3):
        a @ b
    marks[0].record()
    for mark in marks[1:]:
        a @ b
        mark.record()
    torch.cuda.synchronize()
    times = [first.elapsed_time(second) for first, second in itertools.pairwise(marks)]
    return 2 * size**3 / (1e-3 * statistics.median(times))


def _driver() -> str:
    if (program := shutil.which("nvidia-smi")) is None:
        return "unknown: there is no nvidia-smi"
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
