"""All that only a GPU can show, by one command: tests, steps, trials, sweeps, beside the targets.

    make gpu                                          # most of it, in under ten minutes
    make gpu ARGS="--steps share launch-small accuracy fp8"          # and the rest
    python benchmarks/gpu.py --steps tests step trial --total-seconds 200
    python benchmarks/gpu.py --images data/vtab-1k --tasks eurosat \\
        --small deit_tiny_patch16_224 --weights deit_tiny_patch16_224.safetensors
    python benchmarks/gpu.py --device cpu --backbone tiny --quick    # a rehearsal

Each step is one of the other benchmarks, or the product's own command, as a process with a time
limit: one that fails, crashes or takes too long is named and does not stop the next. Everything is
written after every step, to `benchmarks/results/gpu/<card>-<date>/`: `machine.json`, a JSON file
and a short log per step, the tables of sweeps as Parquet, and `targets.md`, the table that is
printed at the end. Steps that are run again replace what they wrote. Without `--images` and
`--weights` both are made up: good for the time, not for an accuracy.

Exit code 1 where a test failed or a step did not come to its end. A missed target is shown.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from gpu_targets import OK, as_table, targets

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
RESULTS = BENCHMARKS / "results" / "gpu"

LEAST_SECONDS = 10
"""With less time left a step is not begun."""
GRACE_SECONDS = 8
"""After its limit a step may end in order for so long: a sweep takes its Ray down."""
MOST_LOG_LINES = 200
A_MOMENT = 0.05
"""As a share of the time that a sweep took."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A process and what is kept of it."""

    name: str
    command: Sequence[object]
    limit: float
    """Seconds."""
    in_root: bool = False
    keep: Callable[[Path, Path], None] | None = None
    """From the working folder to the results folder, once it has ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    deadline = time.monotonic() + options.total_seconds
    with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        runner = Runner(work, work / "results", deadline=deadline)
        measured = runner.run(_machine_step(options))
        card = _read(work / "results" / "machine.json")
        out = options.out or RESULTS / _folder_name(card)
        runner.move_to(out)
        if not measured:
            return 1  # nothing else would work either
        backbones = {name: getattr(options, name) for name in ("backbone", "large", "small")}
        _write(out / "backbones.json", backbones)
        steps = _steps(options, work)
        if set(options.steps) & set(_NEED_IMAGES) and not _material(options, work).is_given:
            runner.run(_made_up_step(options, work))
        for name in options.steps:
            runner.run(steps[name])
    print(f"\n{as_table(targets(out))}\n\n{out}")
    if runner.failed:
        print("not to the end: " + ", ".join(runner.failed))
    return 1 if runner.failed else 0


class Runner:
    """Runs steps in a working folder and writes down what came of them in `out`."""

    def __init__(self, work: Path, out: Path, *, deadline: float) -> None:
        """`deadline` is of the monotonic clock: all steps are over by then."""
        self._work = work
        self._out = out
        self._deadline = deadline
        self.failed: list[str] = []
        """What did not come to its end, and why."""
        out.mkdir(parents=True, exist_ok=True)

    def move_to(self, out: Path) -> None:
        """What was written so far moves; what is there from an earlier run stays."""
        out.mkdir(parents=True, exist_ok=True)
        earlier, now = (_read(folder / "steps.json") for folder in (out, self._out))
        for file in self._out.iterdir():
            shutil.move(file, out / file.name)
        self._out = out
        _write(out / "steps.json", {**earlier, **now})

    def run(self, step: Step) -> bool:
        """Whether the step came to its end."""
        limit = min(step.limit, self._deadline - time.monotonic() - GRACE_SECONDS)
        began = time.monotonic()
        command = [str(word).replace("{out}", str(self._out)) for word in step.command]
        log = self._out / f"{step.name}.log"
        if limit < LEAST_SECONDS:
            outcome = "not begun: no time left"
            log.write_text(outcome + "\n")
        else:
            (self._out / f"{step.name}.json").unlink(missing_ok=True)  # of an earlier run
            outcome = self._outcome(step, command, limit, log)
            if step.keep is not None:
                try:
                    step.keep(self._work, self._out)
                except (OSError, ValueError, LookupError, ET.ParseError) as error:
                    outcome = f"{outcome}; left nothing to read ({error})"
            _shorten(log)
            for file in (log, self._out / f"{step.name}.json"):
                if file.exists():
                    file.write_text(self._plain(file.read_text()))
        seconds = time.monotonic() - began
        print(f"{step.name}: {seconds:.0f} s, {outcome}", flush=True)
        if outcome != OK:
            self.failed.append(f"{step.name} ({outcome})")
            print("".join(f"    {line}\n" for line in _last_lines(log, 6)), end="", flush=True)
        self._note(step.name, outcome, seconds, command)
        return outcome == OK

    def _outcome(self, step: Step, command: list[str], limit: float, log: Path) -> str:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT if step.in_root else self._work,
                env=_environment(self._work),
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                _end(process)
                return f"stopped after {limit:.0f} s"
            except BaseException:
                _end(process)
                raise
        if code < 0:
            return f"crashed with {signal.Signals(-code).name}"
        return f"failed with exit code {code}" if code else OK

    def _note(self, name: str, outcome: str, seconds: float, command: list[str]) -> None:
        """Which step was run how, and what came of it."""
        noted = _read(self._out / "steps.json")
        noted[name] = {
            "outcome": outcome,
            "seconds": round(seconds, 1),
            "command": [self._plain(word) for word in command],
            "commit": _commit(),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _write(self._out / "steps.json", noted)
        (self._out / "targets.md").write_text(as_table(targets(self._out)) + "\n")

    def _plain(self, text: str) -> str:
        """Without the places of this machine: results are for others to read."""
        python = {Path(sys.executable): "python", Path(sys.prefix): "PYTHON"}
        for place, name in {self._out: "OUT", self._work: "WORK", **python, ROOT: "."}.items():
            text = re.sub(rf"(?<![\w.]){re.escape(str(place))}(?![\w-])", name, text)
        return text


def _end(process: subprocess.Popen[bytes]) -> None:
    """A step and its children: in order if they will, within a few seconds."""
    for number, seconds in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGKILL, 2)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        break
    with suppress(ProcessLookupError):  # children may outlive the one that we waited for
        os.killpg(process.pid, signal.SIGKILL)


def _environment(work: Path) -> dict[str, str]:
    """Our own packages for all that is started, a cache of its own, a traceback of a crash."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    absolute = [str(Path(path).resolve()) for path in paths]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(absolute)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "ORCHESTRATOR_CACHE": str(work / "cache"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "COLUMNS": "160",
    }


# ---- the steps


def _machine_step(options: argparse.Namespace) -> Step:
    return Step(
        name="machine",
        command=_script("peak", "--device", options.device, "--json", "{out}/machine.json"),
        limit=60,
    )


@dataclass(frozen=True, kw_only=True)
class _Material:
    """Images and weights that trials are run with."""

    is_given: bool
    images: Sequence[object]
    """Arguments that name the suite."""
    small: Sequence[object]
    """Arguments that name the small backbone."""


def _material(options: argparse.Namespace, work: Path) -> _Material:
    made = work / "made"
    tasks = ["--tasks", options.tasks] if options.tasks else []
    images = [options.images, *tasks] if options.images else [made / "images"]
    if options.small == "tiny":
        small: list[object] = ["--backbone", "vit_quickstart"]
    else:
        weights = options.weights or made / f"{options.small}.safetensors"
        small = ["--backbone", options.small, "--weights", weights]
        small += ["--normalization", "imagenet"]
    is_given = bool(options.images and (options.weights or options.small == "tiny"))
    return _Material(is_given=is_given, images=images, small=small)


_NEED_IMAGES = ("trial", "sweep", "share", "accuracy")


def _made_up_step(options: argparse.Namespace, work: Path) -> Step:
    """Images and weights, where none are given."""
    size = ["--size", 32, "--train", 40, "--val", 20] if options.quick else []
    needs_weights = options.small != "tiny" and not options.weights
    weights = ["--weights", options.small] if needs_weights else []
    return Step(
        name="made_up", command=_script("made_up", work / "made", *size, *weights), limit=60
    )


def _steps(o: argparse.Namespace, work: Path) -> Mapping[str, Step]:
    """By name, in the order in which they are run: the most valuable first."""
    quick = o.quick
    device = ["--device", o.device]
    bf16 = [*device, "--precision", "bf16", "--clock", "wall"]
    batch = ["--batch", 2 if quick else 64]
    rounds = [*batch, "--rounds", 2 if quick else 5]
    tokens = [3] if quick else [50, 100]
    epochs = 2 if quick else 100
    few_epochs = 2 if quick else 15
    base, large, small = (["--backbone", name] for name in (o.backbone, o.large, o.small))
    material = _material(o, work)
    on_images = [*material.images, *material.small]
    if o.backbone == "tiny":
        whole: list[object] = ["--backbone", "vit_quickstart"]
    else:
        whole = [*base, "--random-weights", "--normalization", "imagenet"]
    launched = [*bf16, "--launch", "compiled", *rounds]
    methods = ["--method", "vpt_deep", "vpt_deep_dropout", "spt_deep", "apt"]
    ways = ["--ways", "eager"] if quick else ["--ways", "eager", "graph", "compiled"]
    few = ["--tokens", 3, "--steps", 2] if quick else []
    side = ["--ways", "eager", "--processes", 1, 2] if quick else []

    def step(name: str, limit: float, script: str, *arguments: object, **more: Any) -> Step:
        command = _script(script, *arguments, "--json", f"{{out}}/{name}.json")
        return Step(name=name, command=command, limit=limit, **more)

    def sweep(name: str, *slots: object) -> Step:
        length = ["--trials", 2 if quick else 12, "--epochs", 2 if quick else 20]
        # The same configurations each time, all to their end, so that speeds compare.
        search = ["--method", "vpt_deep_adamw", "--sampler", "random", "--pruner", "none"]
        command = [sys.executable, "-m", "orchestrator", "sweep", *on_images, *length, *search]
        return Step(
            name=name,
            command=[*command, *slots, "--out", work / name],
            limit=130,
            keep=lambda work, out: _keep_sweep(name, work, out),
        )

    whole_gpu, quarter = (
        (["--slots", 1], ["--slots", 2])
        if o.device == "cpu"
        else (["--gpus-per-trial", 1], ["--gpus-per-trial", 0.25, "--cpus-per-trial", 1])
    )
    files = sorted(f for f in (ROOT / "tests").glob("test_*.py") if "mark.gpu" in f.read_text())
    pytest = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider"]
    pytest += ["-v", "--tb=short", "--timeout=120"]  # to see how far it came, should it crash
    pytest += ["-n", 3, "--dist", "loadfile"]  # mostly they wait for imports and the compiler
    found = [
        Step(
            name="tests",
            command=[*pytest, *files, "--junit-xml", work / "tests.xml"],
            limit=240,
            in_root=True,
            keep=_keep_tests,
        ),
        step("step", 100, "step", *launched, *base, *methods, "--tokens", *tokens),
        step(
            *("trial", 150, "trial", *material.images, *whole, *device, "--precision", "bf16"),
            *("--epochs", epochs, "--cold-epochs", 2, "--method", "vpt_deep_adamw"),
            *("--values", f"num_tokens={tokens[0]}"),
        ),
        step(
            *("step-large", 80, "step", *launched, *large, "--method", "vpt_deep"),
            *("--tokens", tokens[0]),
        ),
        step("side", 75, "neighbours", *device, *small, *batch, "--at-most", 60, *side),
        sweep("sweep", *whole_gpu),
        sweep("share", *quarter),
        step("launch-small", 60, "launch", *device, *small, *rounds, *ways, *few),
        step("launch", 60, "launch", *device, *base, *rounds, *ways, *few),
        step(
            *("stacked", 60, "stacked", *bf16, "--launch", "graph", *small, *rounds),
            *("--trials", *([1, 2] if quick else [1, 2, 4, 8])),
        ),
        step(
            *("accuracy", 90, "accuracy", *on_images, *device, "--epochs", few_epochs),
            *("--method", "vpt_deep_adamw", "--configs", 1, "--seeds", 2 if quick else 4),
        ),
        step("fp8", 75, "fp8", *device, *base, *rounds, "--seconds", 60),
    ]
    return {one.name: one for one in found}


USUAL_STEPS = ("tests", "step", "trial", "step-large", "side", "sweep", "launch", "stacked")
"""What fits into ten minutes on a machine that takes ten seconds to import PyTorch."""

STEP_NAMES = (*USUAL_STEPS, "share", "launch-small", "accuracy", "fp8")


def _script(name: str, *arguments: object) -> list[object]:
    return [sys.executable, BENCHMARKS / f"{name}.py", *arguments]


# ---- what is kept


def _keep_tests(work: Path, out: Path) -> None:
    suite = ET.parse(work / "tests.xml").getroot()
    suite = suite if suite.tag == "testsuite" else suite[0]
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    slowest = sorted(
        ((float(case.get("time", 0)), case.get("name", "")) for case in suite.iter("testcase")),
        reverse=True,
    )
    _write(
        out / "tests.json",
        {
            "passed": count["tests"] - failed - count["skipped"],
            "failed": failed,
            "skipped": count["skipped"],
            "seconds": {name: seconds for seconds, name in slowest[:20]},
        },
    )


def _keep_sweep(name: str, work: Path, out: Path) -> None:
    """The table of a sweep, and how many of its trials an hour holds."""
    table = out / f"{name}.parquet"
    shutil.copyfile(work / name / "results.parquet", table)
    rows = pq.read_table(table).to_pylist()
    ended = [row for row in rows if row["finished"] and row["wall_seconds"] is not None]
    wall = sum(row["wall_seconds"] for row in ended)
    _write(
        out / f"{name}.json",
        {
            "states": sorted(row["state"] for row in rows),
            "trials": len(ended),
            "trials_per_hour": trials_per_hour(ended),
            "most_at_once": most_at_once(ended),
            "wall_seconds": wall,
            "steps": sum(row["train_seconds"] for row in ended) / wall,
            "precision": ended[0]["precision"],
        },
    )


def most_at_once(rows: Sequence[Mapping[str, Any]]) -> int:
    """Of trials, as `results.parquet` has them, how many a worker had at the same time.

    The column `started` would also count those that were drawn and waited for a worker. An end is
    noted a moment late, so that one trial seems to run into the next: moments do not count.
    """
    spans = _at_once(rows)
    held: Counter[int] = Counter()
    for number, (begin, end) in spans:
        held[number] += (end - begin) / timedelta(seconds=1)
    return max(number for number, seconds in held.items() if seconds >= A_MOMENT * held.total())


def trials_per_hour(rows: Sequence[Mapping[str, Any]]) -> float:
    """From when all workers have a trial to when the first of them has no other: how long workers
    take to start says nothing about a sweep of many trials."""
    most = most_at_once(rows)
    busy = [span for number, span in _at_once(rows) if number == most]
    begin, end = busy[0][0], busy[-1][1]
    trials = sum(
        max(timedelta(), min(row["finished"], end) - max(_began(row), begin))
        / timedelta(seconds=row["wall_seconds"])
        for row in rows
    )
    return trials / ((end - begin) / timedelta(hours=1))


def _at_once(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, tuple[datetime, datetime]]]:
    """How many trials were in a worker's hands from one change to the next."""
    changes = sorted([(_began(row), 1) for row in rows] + [(row["finished"], -1) for row in rows])
    numbers = itertools.accumulate(change for _, change in changes)
    times = itertools.pairwise(time for time, _ in changes)
    return list(zip(numbers, times, strict=False))  # after the last change there is none


def _began(row: Mapping[str, Any]) -> datetime:
    return row["finished"] - timedelta(seconds=row["wall_seconds"])


def _shorten(log: Path) -> None:
    """The beginning and the end of a long log, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    lines = text.replace("\r", "\n").splitlines()
    if len(lines) > MOST_LOG_LINES:
        left_out = f"... {len(lines) - MOST_LOG_LINES} lines left out"
        lines = [*lines[:20], left_out, *lines[20 - MOST_LOG_LINES :]]
    log.write_text("\n".join(lines) + "\n")


def _last_lines(log: Path, count: int) -> list[str]:
    return [line[:160] for line in log.read_text().splitlines() if line.strip()][-count:]


def _folder_name(card: Mapping[str, Any]) -> str:
    name = card.get("gpu") if card.get("device") == "cuda" else "cpu"
    plain = re.sub(r"[^a-z0-9]+", "-", (name or "no-gpu").lower()).strip("-")
    return f"{plain}-{date.today().isoformat()}"


def _commit() -> str:
    """Of the checkout, with a plus where it was changed."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        choices=STEP_NAMES,
        default=list(USUAL_STEPS),
        help="default: %(default)s",
    )
    parser.add_argument("--total-seconds", type=float, default=580, help="of all steps together")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--backbone", default="vit_base_patch16_224", help="a timm name, or tiny")
    parser.add_argument("--large", default="vit_large_patch16_224", help="the same")
    parser.add_argument("--small", default="vit_tiny_patch16_224", help="the same")
    parser.add_argument("--images", type=Path, help="a suite's folder, as `sweep` takes it")
    parser.add_argument("--tasks", help="of the suite, separated by commas")
    parser.add_argument("--weights", type=Path, help="file with the weights of --small")
    parser.add_argument("--out", type=Path, help="the results folder")
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see it run")
    options = parser.parse_args(arguments)
    if options.backbone == "tiny":
        options.large = options.small = "tiny"
    for name in ("images", "weights", "out"):
        given = getattr(options, name)
        setattr(options, name, given and given.expanduser().resolve())
        if name != "out" and given and not getattr(options, name).exists():
            parser.error(f"--{name}: {given} is not there")
    return options


if __name__ == "__main__":
    sys.exit(main())
