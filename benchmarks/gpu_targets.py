"""What a GPU was asked for, beside what `gpu.py` measured on it.

Reads the files of a results folder; each line of the table says what is missing where a
measurement is. Nothing in here measures, and what is derived from a measurement says so.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan.pruners.options import default_first_rung_epochs
from orchestrator.plan.pruners.successive_halving import SuccessiveHalving

OK = "ok"
"""How a step is noted that came to its end."""

CASES = ("vpt_deep", "spt_deep", "apt")
MOST_TOKENS = 100
MOST_TIMES_FLOOR = 1.1
LEAST_SHARE_OF_PEAK = 0.5
MOST_TRIAL_SECONDS = 16.0
MOST_NOT_STEP = 0.05
LEAST_GAIN_OF_LAUNCH = 1.1
LEAST_GAIN_OF_STACKED = 1.2
LEAST_GAIN_OF_FP8 = 1.2

TRIAL_IMAGES, TRIAL_BATCH, TRIAL_EPOCHS, TRIAL_WARMUP_EPOCHS = 800, 64, 100, 10
TRIAL_STEPS = TRIAL_EPOCHS * math.ceil(TRIAL_IMAGES / TRIAL_BATCH)
VTAB_TASKS, VTAB_TRIALS = 19, 60


@dataclass(frozen=True, kw_only=True)
class Target:
    """A line of the table."""

    what: str
    wanted: str
    measured: str
    met: bool | None
    """None: not measured, not on a GPU, or nothing was asked for that can be missed."""


class Unmeasured(Exception):
    """Why there is no number."""


def targets(folder: Path) -> list[Target]:
    """All that can be said from the files in `folder`."""
    results = _Results(folder)
    lines: list[tuple[str, str, Callable[[_Results], tuple[str, bool | None]]]] = [
        ("tests on the GPU", "all pass", _tests),
        *(
            (f"step of {case}, {{backbone}}, P <= {MOST_TOKENS}", "<= 1.1 x the floor", times)
            for case, times in ((case, _times_floor(case)) for case in CASES)
        ),
        ("share of the matrix peak, {backbone}", ">= 50 %", _share_of_peak("step")),
        ("share of the matrix peak, {large}", ">= 50 %", _share_of_peak("step-large")),
        ("whole trial, {backbone}, 800 images, 100 epochs, P = 50", "<= 16 s", _trial_seconds),
        ("of it not the step", "<= 5 %", _not_step),
        ("VTAB of one method, 19 x 60 trials, pruned", "<= 1 h", _vtab_hours),
        ("trials side by side, {small}", "measured", _side_by_side),
        ("the same, trials of a real sweep, 4 on the GPU", "measured", _shared_sweep),
        ("trials stacked in one pass, {small}", ">= 1.2 x side by side", _stacked),
        ("launched otherwise, whole trial, {backbone}", ">= 1.1 x eager", _launch("launch")),
        ("launched otherwise, whole trial, {small}", ">= 1.1 x eager", _launch("launch-small")),
        ("bf16 less fp32, val accuracy", "within 2 standard errors of 0", _accuracy),
        ("frozen layers in 8 bits, step, {backbone}", ">= 1.2 x bf16", _fp8),
    ]
    names = results.names
    found = []
    for what, wanted, measure in lines:
        try:
            measured, met = measure(results)
        except Unmeasured as error:
            measured, met = f"not measured: {error}", None
        except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
            # A step that was stopped may leave half of its rows; the table is of the others, too.
            measured, met = f"not measured: what was written does not say ({error!r})", None
        if not results.are_of_a_gpu:
            met = None
        found.append(Target(what=what.format(**names), wanted=wanted, measured=measured, met=met))
    return found


def as_table(found: Sequence[Target]) -> str:
    """The lines in Markdown."""
    words = {True: "met", False: "missed", None: ""}
    lines = ["| | wanted | measured | |", "|---|---|---|---|"]
    lines += [f"| {t.what} | {t.wanted} | {t.measured} | {words[t.met]} |" for t in found]
    return "\n".join(lines)


class _Results:
    """The files of a results folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._steps: Mapping[str, Mapping[str, Any]] = self._read("steps") or {}

    def _read(self, name: str) -> Any:
        path = self._folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def names(self) -> Mapping[str, str]:
        """The backbones that were measured, by their part in it."""
        default = {"backbone": "ViT-B/16", "large": "ViT-L/16", "small": "ViT-Ti/16"}
        return {**default, **(self._read("backbones") or {})}

    @property
    def are_of_a_gpu(self) -> bool:
        """A rehearsal on a CPU meets no target and misses none."""
        return (self._read("machine") or {}).get("device") == "cuda"

    def of(self, step: str) -> Any:
        """What a step wrote; Unmeasured says why it did not."""
        document = self._read(step)
        if document is None:
            outcome = self._steps.get(step, {}).get("outcome", "not run")
            raise Unmeasured(f"{step} {outcome}")
        return document

    def rows(self, step: str) -> list[dict[str, Any]]:
        rows = self.of(step).get("rows", [])
        if not rows:
            raise Unmeasured(f"{step} has no rows")
        return rows

    def outcome(self, step: str) -> str:
        return self._steps.get(step, {}).get("outcome", "not run")


def _tests(results: _Results) -> tuple[str, bool | None]:
    found = results.of("tests")
    text = ", ".join(f"{found[name]} {name}" for name in ("passed", "failed", "skipped"))
    if results.outcome("tests") != OK:
        return f"{text}; {results.outcome('tests')}", False
    return (text, True) if found["passed"] else (text, None)


def _times_floor(case: str) -> Callable[[_Results], tuple[str, bool | None]]:
    def measure(results: _Results) -> tuple[str, bool | None]:
        rows = list(_of_cases(results.rows("step"), [case]))
        text = ", ".join(f"{row['times_floor']:.2f} at P = {row['num_tokens']}" for row in rows)
        return text, all(row["times_floor"] <= MOST_TIMES_FLOOR for row in rows)

    return measure


def _share_of_peak(step: str) -> Callable[[_Results], tuple[str, bool | None]]:
    def measure(results: _Results) -> tuple[str, bool | None]:
        peak = 1e3 * results.of("machine")["peak_tflops"]
        rows = list(_of_cases(results.rows(step), CASES))
        shares = [row["images_per_second"] * row["step_gflop"] / peak for row in rows]
        text = ", ".join(
            f"{share:.0%} {row['case']} P = {row['num_tokens']}"
            for share, row in zip(shares, rows, strict=True)
        )
        return text, all(share >= LEAST_SHARE_OF_PEAK for share in shares)

    return measure


def _of_cases(rows: Sequence[dict[str, Any]], cases: Sequence[str]) -> Iterator[dict[str, Any]]:
    found = [row for row in rows if row["case"] in cases and row["num_tokens"] <= MOST_TOKENS]
    if not found:
        raise Unmeasured(f"no row of {' or '.join(cases)}")
    yield from found


def _warm_trial(results: _Results) -> dict[str, Any]:
    rows = [row for row in results.rows("trial") if row["state"] == "warm"]
    if not rows:
        raise Unmeasured("no trial of a warm worker")
    return rows[-1]


def _trial_seconds(results: _Results) -> tuple[str, bool | None]:
    row = _warm_trial(results)
    steps, start = row["step"] - row["first"], _start(row)
    text = (
        f"{row['wall']:.1f} s: steps {steps:.1f}, validation after every epoch "
        f"{row['evaluate']:.1f}, start {start:.1f}"
    )
    if row["epochs"] != TRIAL_EPOCHS:
        return f"{text}; {row['epochs']} epochs only", None
    return text, row["wall"] <= MOST_TRIAL_SECONDS


def _start(row: Mapping[str, Any]) -> float:
    """Seconds that a trial takes whatever its epochs are."""
    return row["wall"] - (row["step"] - row["first"]) - row["evaluate"]


def _not_step(results: _Results) -> tuple[str, bool | None]:
    row = _warm_trial(results)
    steps = row["step"] - row["first"]
    share = 1 - steps / row["wall"]
    less = 1 - steps / (row["wall"] - 0.8 * row["evaluate"])
    text = f"{share:.1%}; derived for --eval-every 5: {less:.1%}"
    return text, share <= MOST_NOT_STEP


def _vtab_hours(results: _Results) -> tuple[str, bool | None]:
    row = _warm_trial(results)
    epoch = (row["step"] - row["first"] + row["evaluate"]) / row["epochs"]
    epochs = epochs_after_pruning()
    hours = VTAB_TASKS * VTAB_TRIALS * (_start(row) + epochs * epoch) / 3600
    text = (
        f"{hours:.2f} h, derived from the trial above: one at a time, {epochs:.1f} of "
        f"{TRIAL_EPOCHS} epochs a trial, what `--first-rung 15 --reduction 4` leaves at best"
    )
    return text, hours <= 1


def epochs_after_pruning() -> float:
    """Of a trial, where `--first-rung 15 --reduction 4`, the default when the target was set, keeps
    exactly its share at each rung."""
    first = default_first_rung_epochs(TRIAL_EPOCHS, TRIAL_WARMUP_EPOCHS)
    pruner = SuccessiveHalving(first_rung_epochs=first, reduction_factor=4)
    share, total = 1.0, 0.0
    for epoch in range(1, TRIAL_EPOCHS + 1):
        total += share
        if pruner.must_be_validated(epoch):
            share /= pruner.reduction_factor
    return total


def _best_neighbours(results: _Results) -> dict[str, Any]:
    return max(results.rows("side"), key=lambda row: row["steps_per_second"])


def _side_by_side(results: _Results) -> tuple[str, bool | None]:
    best = _best_neighbours(results)
    alone = max(
        (r["steps_per_second"] for r in results.rows("side") if r["processes"] == 1), default=None
    )
    an_hour = 3600 * best["steps_per_second"] / TRIAL_STEPS
    text = (
        f"best with {best['processes']} processes, {best['way']}, service {best['service']}: "
        f"{best['steps_per_second']:.0f} steps/s, derived {an_hour:.0f} trials/h without validation"
    )
    gain = f"; {best['steps_per_second'] / alone:.2f} x the best of one" if alone else ""
    return text + gain, None


def _shared_sweep(results: _Results) -> tuple[str, bool | None]:
    alone, shared = results.of("sweep"), results.of("share")
    an_hour, together = alone["trials_per_hour"], shared["trials_per_hour"]
    text = (
        f"{together:.0f} trials/h with {shared['most_at_once']} at once, {an_hour:.0f} one at a "
        f"time: {together / an_hour:.2f} x"
    )
    return text, None


def _stacked(results: _Results) -> tuple[str, bool | None]:
    best = max(results.rows("stacked"), key=lambda row: row["images_per_second"])
    others = _best_neighbours(results)["steps_per_second"] * results.of("side")["batch"]
    gain = best["images_per_second"] / others
    text = (
        f"{gain:.2f} x ({best['trials']} in one pass: {best['images_per_second']:.0f} images/s, "
        f"{best['gain']:.2f} x one after the other; side by side {others:.0f})"
    )
    return text, gain >= LEAST_GAIN_OF_STACKED


def _launch(step: str) -> Callable[[_Results], tuple[str, bool | None]]:
    def measure(results: _Results) -> tuple[str, bool | None]:
        rows = results.rows(step)
        plain = TRIAL_STEPS * rows[0]["ms"] / 1e3
        gains = {r["way"]: plain / (r["ready_seconds"] + TRIAL_STEPS * r["ms"] / 1e3) for r in rows}
        text = ", ".join(
            f"{row['way']} {gains[row['way']]:.2f} ({row['ms']:.1f} ms)" for row in rows
        )
        return f"{text}; derived for {TRIAL_STEPS} steps", max(gains.values()) >= (
            LEAST_GAIN_OF_LAUNCH
        )

    return measure


def _accuracy(results: _Results) -> tuple[str, bool | None]:
    pairs = [
        (a, b)
        for row in results.rows("accuracy")
        for a, b in zip(row["fp32"], row["bf16"], strict=True)
    ]
    differences = [b - a for a, b in pairs if a is not None and b is not None]
    if len(differences) < 2:
        raise Unmeasured("fewer than two pairs of trials ended")
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    text = f"{mean:+.2f} points, standard error {error:.2f}, {len(differences)} pairs"
    return text, abs(mean) <= 2 * error


def _fp8(results: _Results) -> tuple[str, bool | None]:
    """The fastest step in 8 bits against the fastest in bf16, however each is launched."""
    rows = results.of("fp8").get("steps", [])
    if not any(row["layers"] for row in rows):
        raise Unmeasured("fp8 has no steps")
    eight, sixteen = (
        min((row for row in rows if bool(row["layers"]) is is_eight), key=lambda row: row["ms"])
        for is_eight in (True, False)
    )
    gain = sixteen["ms"] / eight["ms"]
    text = f"{gain:.2f} ({eight['layers']}, {eight['launch']}; bf16 {sixteen['launch']})"
    return text, gain >= LEAST_GAIN_OF_FP8
