"""How much of a GPU a trial has: by what was measured, within its memory, or a whole one."""

import copy
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plans import make_plan
from timm.models import VisionTransformer
from tiny_backbones import tiny_vit

from orchestrator.api.requests import PlanRequest
from orchestrator.api.sweep import Sweep
from orchestrator.cluster.slots import Slots
from orchestrator.plan.gpu_share import (
    AT_MOST_SECONDS,
    choose_gpu_share,
    chosen_count,
    measure,
)
from orchestrator.plan.plan import GpuShare, load_plan, plan_document, save_plan
from orchestrator.run.request import RunRequest
from orchestrator.run.worker_loop import bytes_to_keep
from orchestrator.support.other_process import GRACE_SECONDS
from orchestrator.training.numerics import Engine
from orchestrator.training.shared_device import Answer, Question, training

GIB = 1 << 30
H100 = "NVIDIA H100 80GB HBM3"
SHARE = GpuShare(gpus_per_trial=0.25, gpu=H100)


@pytest.mark.parametrize(
    ("rates", "bytes_of_one", "expected", "said"),
    [
        ({1: 100, 2: 190, 4: 300}, 4 * GIB, 4, "1/4 of a GPU .* 4 take 300 steps/s"),
        ({1: 100, 2: 190, 4: 200}, 4 * GIB, 2, "1/2 of a GPU"),
        ({1: 100, 2: 105, 4: 112}, 4 * GIB, 4, "1/4 of a GPU"),
        ({1: 100, 2: 109, 4: 109}, 4 * GIB, 1, "a whole GPU .* 2 take 109 steps/s"),
        ({1: 100, 2: 190, 4: 300}, 9 * GIB, 4, "1/4 of a GPU"),
        ({1: 100, 2: 190, 4: 300}, 10 * GIB, 2, "1/2 of a GPU .* no memory for 4"),
        ({1: 100, 2: 190, 4: 300}, 21 * GIB, 1, "a whole GPU .* no memory for 2 or 4"),
        ({1: 100, 2: 190, 4: 300}, 90 * GIB, 1, "a whole GPU"),
    ],
)
def test_more_trials_share_a_gpu_where_they_do_more_steps_and_fit(
    rates: Mapping[int, float], bytes_of_one: int, expected: int, said: str
):
    lines: list[str] = []
    answer = Answer(steps_per_second=rates, bytes_of_one=bytes_of_one)
    assert chosen_count(answer, free_bytes=80 * GIB, say=lines.append) == expected
    (line,) = lines
    assert re.search(said, line)


def test_what_could_not_be_measured_is_said_and_shares_nothing():
    lines: list[str] = []
    answer = Answer(steps_per_second={1: 1.0, 2: 9.0}, failure="a process ended with code 3")
    assert chosen_count(answer, free_bytes=80 * GIB, say=lines.append) == 1
    assert lines == [
        "GPU share: a whole GPU for each trial, it could not be measured: a process ended with "
        "code 3"
    ]


def test_real_training_is_measured_in_processes_side_by_side():
    vit = tiny_vit()
    answer = measure(vit, Engine(), (1, 2), device="cpu", seconds=0.2)
    assert answer.failure is None
    assert set(answer.steps_per_second) == {1, 2} and min(answer.steps_per_second.values()) > 0
    assert next(vit.parameters()).device.type == "cpu"  # the plan goes on with it


def test_a_backbone_with_tables_of_positions_is_measured_too(monkeypatch):
    """What stands in them are numbers of rows, which no noise can be."""
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # as a process of its own has
    network = copy.deepcopy(tiny_vit("beit")).to("meta")
    turns = training(
        Question(
            network=network,
            engine=Engine(),
            device="cpu",
            batch_size=2,
            counts=(1,),
            seconds=0.1,
            deadline=0.0,
        )
    )
    turns["epoch"]()


def test_a_measurement_that_takes_too_long_is_ended():
    begun = time.monotonic()
    found = measure(tiny_vit(), Engine(), (1,), device="cpu", at_most_seconds=0.0)
    assert found.failure is not None
    assert re.search("the time that was given is over|it took longer than", found.failure)
    assert time.monotonic() - begun < 120


def test_a_backbone_that_cannot_be_sent_to_a_process_is_told_of():
    vit = tiny_vit()
    vit.register_forward_hook(lambda *_: None)
    found = measure(vit, Engine(), (1,), device="cpu")
    assert "cannot be given to another process" in (found.failure or "")


def test_a_plan_keeps_what_was_measured_and_one_of_before_has_nothing(tmp_path: Path):
    assert "gpu_share" not in plan_document(make_plan())
    save_plan(replace(make_plan(), gpu_share=SHARE), tmp_path)
    assert load_plan(tmp_path).gpu_share == SHARE


@pytest.fixture
def vit() -> VisionTransformer:
    """Made before GPUs are feigned."""
    return tiny_vit()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The GPUs of this machine by name, to be filled by the test: there may be none here."""
    names: list[str] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: names[index])
    monkeypatch.setattr("orchestrator.run.engine.available_cpus", lambda: 16)
    monkeypatch.setattr("orchestrator.run.request.available_cpus", lambda: 16)
    return names


@pytest.mark.parametrize(
    ("here", "asked", "expected"),
    [
        ([H100], {}, (4, 4, 0.25)),
        ([H100, H100], {}, (8, 2, 0.25)),
        ([H100], {"cpus_per_trial": 8}, (2, 8, 0.25)),
        ([H100], {"slots": 3}, (3, 4, 0.25)),
        ([H100, H100], {"slots": 2}, (2, 8, 1.0)),
        ([H100], {"gpus_per_trial": 1.0}, (1, 16, 1.0)),
        ([H100], {"engine": "local"}, (1, 16, 1.0)),
        ([], {}, (8, 2, 0.0)),
    ],
)
def test_who_goes_on_with_a_sweep_has_its_share(gpus, here, asked, expected):
    gpus += here
    slots = RunRequest(**asked).chosen_engine(SHARE).slots
    assert (slots.num_slots, slots.cpu_threads, slots.gpus_per_trial) == expected


def test_a_share_of_another_gpu_is_not_taken_and_that_is_said(gpus, caplog):
    gpus += [H100, "NVIDIA L4"]
    assert RunRequest().chosen_engine(SHARE).slots.gpus_per_trial == 1
    assert "was measured on NVIDIA H100 80GB HBM3, not on NVIDIA L4" in caplog.text


def test_what_is_measured_is_planned_and_run_with(gpus, monkeypatch, tmp_path):
    def choose(vit: VisionTransformer, engine: Engine, *, say: object, most: int) -> GpuShare:
        assert most == 16
        return SHARE

    monkeypatch.setattr("orchestrator.plan.gpu_share.choose_gpu_share", choose)
    gpus.append(H100)
    lines: list[str] = []
    settled = {"precision": "fp32", "launch": "eager", "trials": 2, "tasks": ["digits"]}
    planned = Sweep.planned(
        PlanRequest("quickstart", out=tmp_path / "s", **settled), RunRequest(), say=lines.append
    )
    assert planned.frozen_plan.gpu_share == SHARE and planned.engine is not None
    assert planned.engine.slots.gpus_per_trial == 0.25
    assert "on 4 slots of 4 CPU threads and 0.25 GPU" in "\n".join(lines)


@pytest.mark.parametrize(
    "asked", [{"gpus_per_trial": 1.0}, {"slots": 1}, {"engine": "local"}, {"gpus_per_trial": 0.0}]
)
def test_nothing_is_measured_where_the_user_has_settled_it(gpus, asked):
    gpus.append(H100)
    request = RunRequest(**asked)
    assert request.gpu_share_chooser(request.chosen_engine().slots) is None


def test_nothing_is_measured_on_a_cpu_nor_on_a_cluster(vit, gpus):
    assert RunRequest().gpu_share_chooser(RunRequest().chosen_engine().slots) is None
    lines: list[str] = []
    slots = Slots(num_slots=4, cpu_threads=1, gpus_per_trial=1)
    choose = RunRequest(ray_address="10.0.0.1:6379").gpu_share_chooser(slots)
    assert choose is not None and choose(vit, Engine(), say=lines.append) is None
    assert lines[0].startswith("GPU share: a whole GPU for each trial, on a cluster")


def test_no_more_trials_are_tried_than_there_are_cpus_for(vit, gpus):
    gpus += [H100, H100]
    lines: list[str] = []
    choose = RunRequest(cpus_per_trial=8).gpu_share_chooser(RunRequest().chosen_engine().slots)
    assert choose is not None and choose(vit, Engine(), say=lines.append) is None
    assert lines == ["GPU share: a whole GPU for each trial, there are no CPUs for more"]


def test_workers_that_share_a_gpu_keep_equal_parts_whoever_comes_first(monkeypatch):
    limits: list[float] = []
    free = 80 * GIB
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    kept = []
    for _ in range(4):
        kept.append(bytes_to_keep("cuda", 0.25))
        free -= 20 * GIB  # the others have begun
    assert kept == 4 * [19 * GIB // 2]
    assert limits == 4 * [pytest.approx(19 / 80)]
    free = 80 * GIB
    assert bytes_to_keep("cuda") == 40 * GIB and len(limits) == 4  # alone, as it ever was


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_the_share_of_a_real_gpu_is_measured_in_time():
    lines: list[str] = []
    begun = time.monotonic()
    engine = Engine(precision="bf16", launch="graph")
    found = choose_gpu_share(tiny_vit(), engine, say=lines.append, most=2)
    assert time.monotonic() - begun < AT_MOST_SECONDS + GRACE_SECONDS + 5
    assert "1 take" in lines[-1] and "2 take" in lines[-1], lines
    assert found is None or found == GpuShare(gpus_per_trial=0.5, gpu=torch.cuda.get_device_name())


@pytest.mark.gpu
@needs_gpu
def test_a_worker_is_out_of_memory_where_its_part_ends():
    program = """
        import torch
        from orchestrator.training.device_memory import free_bytes, keep_to_part
        keep_to_part(0.25)
        total = torch.cuda.mem_get_info()[1]
        assert 0 < free_bytes(0.25) <= 0.25 * total
        held = torch.empty(int(0.1 * total), dtype=torch.uint8, device="cuda")
        try:
            torch.empty(int(0.2 * total), dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            print("out of memory")
    """
    words = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "out of memory\n", done.stderr
