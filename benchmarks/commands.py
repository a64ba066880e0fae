"""How long the small commands take, from Enter to their last line.

    python benchmarks/commands.py                    # in this environment
    python benchmarks/commands.py --sweep FOLDER     # with those that look at a finished sweep

A row for each command: seconds of CPU and of the wall, each the median of some runs of its own
process. On a machine that does other things believe the CPU.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

COMMANDS = (
    "--help",
    "sweep --help",
    "methods",
    "methods vpt num_tokens=100",
    "spaces list",
    "sweep quickstart --trails 3",
    "sweep quickstart --method vpt",
    "sweep quickstart --backbone vit_tiny",
    "status /no/such",
    "report /no/such",
    "export /no/such",
    "doctor /no/such",
    "predict no.yaml photo.jpg",
    "data check /no/such",
)
ON_A_SWEEP = (
    "status {sweep}",
    "report {sweep} --html {page}",
    "compare {sweep} {sweep}",
    "export {sweep} --to {copy}",
    "doctor {sweep}",
)


def measure(words: Sequence[str], runs: int) -> tuple[float, float]:
    """Median seconds of CPU, of the command and all it started, and of the wall."""
    rows = []
    for _ in range(runs):
        before, begun = os.times(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "orchestrator", *words], capture_output=True, check=False
        )
        wall, after = time.perf_counter() - begun, os.times()
        cpu = after.children_user + after.children_system
        rows.append((cpu - before.children_user - before.children_system, wall))
    cpus, walls = zip(*rows, strict=True)
    return statistics.median(cpus), statistics.median(walls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sweep", type=Path, help="a finished sweep, which is only read")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp"), help="for what is written")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    places = {
        "sweep": asked.sweep,
        "page": asked.scratch / "page.html",
        "copy": asked.scratch / "best",
    }
    commands = [*COMMANDS, *(ON_A_SWEEP if asked.sweep else ())]
    width = max(map(len, commands))
    print(f"{'command':<{width}}  CPU s  wall s")
    for command in commands:
        cpu, wall = measure([word.format(**places) for word in command.split()], asked.runs)
        print(f"{command:<{width}}  {cpu:5.2f}  {wall:6.2f}", flush=True)


if __name__ == "__main__":
    main()
