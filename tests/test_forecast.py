"""What a sweep will cost is said before it starts: `orchestrator plan`, and a line of `sweep`."""

import dataclasses
import json
import os
import pty
import random
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import COMMAND, environment, run
from plans import made_pruner, make_plan
from screen import Screen
from suites import write_suite

from orchestrator import Sweep
from orchestrator.cli.forecast import is_wanted
from orchestrator.cluster.slots import Slots
from orchestrator.plan.expected_epochs import LONGEST_STUDY, epochs_of_trials
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.start_points import StartPoint
from orchestrator.plan.typical_configs import NUM_DRAWN, typical_configs
from orchestrator.run.calibration import Calibration, without_times
from orchestrator.run.forecast import Forecast, forecast
from orchestrator.run.request import RunRequest
from orchestrator.run.timed_trials import FEW_IMAGES, Stopwatch, Timing
from orchestrator.support.resident_memory import begin_peak, peak_anonymous_mib, resident_mib
from orchestrator.training.config import TrialConfig

TIMING = Timing(
    step_seconds=0.0,
    train_seconds=0.01,
    batch_size=64,
    eval_seconds=0.002,
    setup_seconds=1.0,
    once_seconds=0.0,
    peak_memory_mib=600.0,
)
"""800 train and 200 val images: 8.4 s an epoch."""


def forecast_of(
    plan: SweepPlan,
    *,
    num_slots: int = 1,
    gpus_per_trial: float = 0.0,
    timings: Sequence[Timing] = (TIMING,),
    price_per_hour: float | None = None,
) -> Forecast:
    drawn = without_times(plan, "").drawn
    calibration = Calibration(drawn=drawn, timings=dict.fromkeys(plan.spaces, timings))
    slots = Slots(num_slots=num_slots, cpu_threads=1, gpus_per_trial=gpus_per_trial)
    return forecast(plan, slots, calibration, {}, with_ray=False, price_per_hour=price_per_hour)


def replayed(pruner: str = "successive_halving", **given: Any) -> list[int]:
    chance = random.Random(0)
    curves = [[height * (epoch + 5) / 30 for epoch in range(25)] for height in map(
        lambda _: chance.random(), range(40)
    )]  # fmt: skip
    asked = {"epochs": 20, "num_trials": 30, "side_by_side": 2, "eval_every": 1, "seed": 0}
    return epochs_of_trials(made_pruner(pruner, 3), curves, **{**asked, **given})


def test_without_a_pruner_every_trial_runs_all_its_epochs():
    assert replayed("none") == [20] * 30
    found = forecast_of(make_plan(num_trials=10, epochs=20, pruner="none"))
    (space,) = found.spaces
    assert space.epochs == found.epochs == space.planned_epochs == 20
    assert space.trial_seconds == pytest.approx(1 + 20 * 8.4)
    assert found.slot_hours == pytest.approx(10 * 169 / 3600)


def test_trials_end_where_the_pruner_decides_or_with_their_last_epoch():
    ends = replayed()
    assert set(ends) == {3, 6, 12, 20}
    assert ends.count(3) > ends.count(20)
    assert set(replayed("median")) == {3, 20}, "the order of these trials never changes"
    assert replayed() == ends != replayed(seed=1)


def test_the_pruner_is_not_asked_where_it_never_decides():
    assert replayed(epochs=3) == [3] * 30
    assert set(replayed("median", epochs=21, eval_every=10)) == {10, 21}


def test_a_very_long_study_is_replayed_in_part():
    assert len(replayed(num_trials=10**6)) == LONGEST_STUDY
    assert (forecast_of(make_plan(num_trials=10**6, pruner="median")).hours or 0) > 10**3


@pytest.mark.parametrize("pruner", ["none", "successive_halving"])
def test_twice_the_trials_take_twice_the_hours(pruner):
    small, large = (
        forecast_of(make_plan(num_trials=number, epochs=20, pruner=pruner, first_rung_epochs=3))
        for number in (40, 80)
    )
    assert small.slot_hours and large.slot_hours and small.hours and large.hours
    exactly = 1e-9 if pruner == "none" else 0.15
    assert large.slot_hours / small.slot_hours == pytest.approx(2, rel=exactly)
    assert large.hours / small.hours == pytest.approx(2, rel=0.15)


def test_slots_share_the_work_as_far_as_there_are_trials():
    hours = {
        slots: forecast_of(make_plan(num_trials=4), num_slots=slots).hours for slots in (1, 4, 8)
    }
    assert hours[1] and hours[4] and hours[1] == pytest.approx(4 * hours[4])
    assert hours[4] == hours[8]


def test_the_interval_holds_the_hours_and_is_wider_where_configurations_differ():
    plan = make_plan(num_trials=6)
    slow = dataclasses.replace(TIMING, train_seconds=0.2)
    alike, different = forecast_of(plan), forecast_of(plan, timings=(TIMING, slow))
    for found in (alike, different):
        assert found.interval and found.hours
        assert found.interval[0] < found.hours < found.interval[1]
    (a, b), (c, d) = alike.interval, different.interval  # type: ignore[misc]
    assert b / a < d / c


def test_the_price_is_that_of_all_slots_from_start_to_end():
    plan = make_plan(num_trials=4)
    assert forecast_of(plan).price is None
    found = forecast_of(plan, num_slots=3, price_per_hour=2.0)
    assert found.hours and found.price == pytest.approx(found.hours * 3 * 2.0)
    assert found.gpu_hours is None
    on_gpu = forecast_of(plan, num_slots=2, gpus_per_trial=0.5, price_per_hour=2.0)
    assert on_gpu.hours and on_gpu.slot_hours
    assert on_gpu.price == pytest.approx(on_gpu.hours * 2.0)
    assert on_gpu.gpu_hours == pytest.approx(on_gpu.slot_hours / 2)


def test_what_could_not_be_measured_is_said_and_epochs_are_told_nevertheless():
    plan = make_plan(num_trials=4)
    slots = Slots(num_slots=2, cpu_threads=1, gpus_per_trial=1)
    unknown = without_times(plan, "no machine has started")
    found = forecast(plan, slots, unknown, {}, with_ray=True, price_per_hour=2.0)
    assert found.hours is found.interval is found.price is found.slot_hours is None
    assert "4 trials, 4 epochs a trial" in str(found)
    assert "not known: no machine has started" in str(found)


def test_configurations_are_typical_of_what_the_space_draws():
    plan = make_plan()
    space = plan.parsed_spaces["vpt_deep"]
    found = typical_configs(space, plan.studies, 5, seed=0)
    lengths = [config["num_tokens"] for config in found.configs]
    assert {1, 50} < set(lengths) and lengths[0] in (5, 10)
    assert found == typical_configs(space, plan.studies, 5, seed=0)
    assert NUM_DRAWN % 2, "there is one in the middle"
    plan = make_plan(spaces=["linear"])
    linear = typical_configs(plan.parsed_spaces["linear"], plan.studies, 5, seed=0)
    assert len({id(config) for config in linear.configs}) == 1, "all of them take as long"


def test_start_points_are_as_typical_as_they_are_many():
    plan = make_plan(num_trials=10)
    space = plan.parsed_spaces["vpt_deep"]
    long = StartPoint(config={"num_tokens": 50}, origin="portfolio")

    def lengths(num_starts: int) -> list[int]:
        studies = [
            dataclasses.replace(one, start_points=(long,) * num_starts) for one in plan.studies
        ]
        configs = typical_configs(space, studies, 5, seed=0).configs
        return [config["num_tokens"] for config in configs]

    assert lengths(10) == [50] * 5, "every trial is one"
    assert lengths(0).count(50) < lengths(4).count(50) < 5


@pytest.mark.slow
def test_a_forecast_is_of_the_size_of_what_the_sweep_then_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    sweep = Sweep.plan(
        str(write_suite(tmp_path / "suite", ("colours_a",))),
        backbone="vit_quickstart",
        methods=["linear", "vpt_deep"],
        trials=2,
        epochs=4,
        pruner="none",
        out=tmp_path / "sweep",
    )
    assert sweep.engine is not None
    assert sweep.forecasted_at_a_glance(sweep.engine, RunRequest(), None) is None, "it is small"
    found = sweep.forecast(engine="local", price_per_hour=1.0)
    assert not sweep.folder.exists(), "a forecast starts nothing"
    assert found.why_not == "" and found.hours and found.slot_hours
    assert [space.epochs for space in found.spaces] == [4, 4]
    assert found.worker_memory_mib and found.worker_memory_mib > 100
    sweep.run(engine="local")
    seconds = sum(trial.facts["wall_seconds"] for trial in sweep.trials())
    assert 1 / 20 < seconds / (3600 * found.slot_hours) < 20


COSTLY = ("--tasks", "digits", "--method", "linear", "--trials", 2, "--epochs", 12,
          "--engine", "local", "--price-per-hour", 1e6)  # fmt: skip


def costly() -> Forecast:
    return forecast_of(make_plan(num_trials=4), price_per_hour=1e6)


def test_nobody_is_asked_where_no_terminal_is():
    assert is_wanted(costly())


@pytest.mark.slow
def test_a_person_is_asked_before_a_costly_sweep_and_can_say_no(tmp_path):
    shown = _typed(["sweep", "quickstart", *COSTLY, "--out", tmp_path / "s"], tmp_path, b"n\n")
    assert "forecast: about" in shown and "start it? [y/N]" in shown
    # The last space of the question may come after the answer to it.
    assert shown.splitlines()[-1].strip() == "nothing was started"
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_yes_starts_it_without_a_question(tmp_path):
    words = ["sweep", "quickstart", *COSTLY, "--out", tmp_path / "s", "--yes"]
    shown = _typed(words, tmp_path, b"")
    assert "forecast: about" in shown and "start it?" not in shown
    assert (tmp_path / "s" / "results.parquet").exists()


@pytest.mark.slow
def test_a_dry_run_tells_all_of_it(tmp_path):
    suite = write_suite(tmp_path / "suite", ("colours_a",))
    told = run(
        "sweep", suite, "--backbone", "vit_quickstart", "--method", "linear", "--trials", 2,
        "--epochs", 2, "--engine", "local", "--out", tmp_path / "s", "--dry-run", tmp=tmp_path,
    )  # fmt: skip
    for expected in ("epochs a trial", "2 of 2", "forecast: about", "memory: a trial takes"):
        assert expected in told, told
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_cluster_is_not_asked_how_fast_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    sweep = Sweep.plan("quickstart", tasks=["digits"], methods=["linear"], out=tmp_path / "s")
    assert sweep.engine is not None
    where = RunRequest(ray_address="ray.example:6379")
    found = sweep.forecasted(sweep.engine, where, None)
    assert found.hours is None and "ray.example:6379" in str(found)
    assert found.epochs < 20, "pruning is known without it"


def _typed(words: Sequence[object], tmp: Path, answer: bytes) -> str:
    """What a person at a terminal sees, who answers the first question."""
    ours, theirs = pty.openpty()
    screen, asked = Screen(200, 50), False
    with subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**environment(tmp), "TERM": "dumb"},
    ) as process:  # fmt: skip
        os.close(theirs)
        while True:
            select.select([ours], [], [], 0.2)
            try:
                written = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            screen.write(written.decode())
            if not asked and "[y/N]" in screen.text:
                asked = True
                os.write(ours, answer)
    os.close(ours)
    assert process.returncode == 0, screen.text
    return screen.text


def test_the_memory_of_a_worker_is_that_of_its_libraries_and_of_its_largest_trial():
    plan = make_plan(num_trials=2)
    drawn = without_times(plan, "").drawn
    larger = dataclasses.replace(TIMING, peak_memory_mib=700.0)
    calibration = Calibration(
        drawn=drawn,
        timings=dict.fromkeys(plan.spaces, (TIMING, larger)),
        base_memory_mib=800.0,
        in_workers=True,
    )
    slots = Slots(num_slots=1, cpu_threads=1, gpus_per_trial=0.0)
    assert forecast(plan, slots, calibration, {}, with_ray=False).worker_memory_mib == 1500


def test_the_peak_of_memory_is_counted_anew():
    begin_peak()
    before = peak_anonymous_mib()
    large = torch.ones(64, 2**20)  # 256 MiB
    assert peak_anonymous_mib() - before > 200 and resident_mib() > 256
    del large
    begin_peak()
    assert peak_anonymous_mib() - before < 100


def test_where_a_whole_batch_takes_too_long_two_smaller_steps_tell_what_it_would():
    """Of 20 ms, and 10 ms for each of its images."""

    class OfASlowNetwork(Stopwatch):
        def __init__(self) -> None:
            self._num_images = {"digits": 800}

        def _few(self, config: TrialConfig) -> int:
            return FEW_IMAGES

        def _timing(self, config: TrialConfig, num_images: int) -> Timing:
            seconds = 0.02 / num_images + 0.01
            return dataclasses.replace(TIMING, train_seconds=seconds, batch_size=128)

    config = TrialConfig(
        study="digits.vpt_deep", task="digits", number=0, method="vpt", config={}, seed=0
    )
    found = OfASlowNetwork().timing(config, seconds=0.5)
    assert found.step_seconds == pytest.approx(0.02)
    assert found.train_seconds == pytest.approx(0.01)
    assert OfASlowNetwork().timing(config, seconds=0.1).step_seconds == 0, "there is no time"


def test_json_has_what_is_shown(tmp_path):
    found = forecast_of(make_plan(num_trials=4), price_per_hour=2.0)
    document = json.loads(json.dumps(found.as_json()))
    assert document["hours"] == found.hours and document["price"] == found.price
    assert [space["trials"] for space in document["spaces"]] == [4]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_trials_that_share_it_are_timed_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    wishes = {"tasks": ["digits"], "methods": ["vpt_deep"], "trials": 4, "out": tmp_path / "s"}
    # This is not about how these are chosen, which would take longer than all else.
    sweep = Sweep.plan("quickstart", **wishes, precision="bf16", launch="graph")
    whole = sweep.forecast(gpus_per_trial=1.0)
    halves = sweep.forecast(gpus_per_trial=0.5)
    for found in (whole, halves):
        assert found.why_not == "" and found.hours and found.gpu_hours
        assert found.worker_memory_mib and found.worker_memory_mib < 20_000
    assert halves.slots.num_slots == 2 * whole.slots.num_slots
