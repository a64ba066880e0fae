"""What a trial of each search space will take, measured on this machine before a sweep starts.

A few configurations that the space may draw are trained for a few steps: in as many processes side
by side as trials share the processors or the GPU. Tasks of one sweep differ by their numbers of
images, and times scale with them: one of them is measured for all.
"""

import contextlib
import pickle
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from orchestrator.cluster.slots import Slots
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.typical_configs import TypicalConfigs, typical_configs
from orchestrator.run import timed_trials
from orchestrator.run.timed_trials import Answer, Question, Stopwatch, Timing
from orchestrator.support.other_process import NoAnswer, answer_of
from orchestrator.support.phases import phase
from orchestrator.support.processors import available_cpus
from orchestrator.training.config import TrialConfig
from orchestrator.training.context import TrialContext

NUM_CONFIGS = 5
"""Of a space that are measured, where there is time; the first of all spaces come first."""
SECONDS = 20.0
"""For all measurements, after the first of each space."""
AT_A_GLANCE_SECONDS = 0.5
"""For a space in this process: enough for a whole batch of a small backbone. Where there are few
images in a step, each takes up to twice as long."""
AT_MOST_SECONDS = 600.0
RAY_WORKER = "orchestrator.run.ray.worker"
"""Imported to see what memory Ray adds to a worker; nothing of it is called."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was found; by space."""

    drawn: Mapping[str, TypicalConfigs]
    timings: Mapping[str, Sequence[Timing]]
    """Each for as large a share of the trials of a space; empty where nothing could be measured."""
    start_seconds: float = 0.0
    """Until a process has loaded what it needs, and its backbone."""
    base_memory_mib: float = 0.0
    """Of a worker before its first trial."""
    in_workers: bool = False
    """They were measured in processes like those of workers, which keep what workers keep."""
    why_not: str = ""
    """Why there are no timings."""


def without_times(plan: SweepPlan, why: str) -> Calibration:
    """What is known where nothing can be measured."""
    drawn = {name: _drawn(plan, name) for name in plan.spaces}
    return Calibration(drawn=drawn, timings={}, why_not=why)


def at_a_glance(plan: SweepPlan, context: TrialContext) -> Calibration:
    """One configuration of each space, in this process: a second at most for a small backbone."""
    drawn = {name: _drawn(plan, name, 1) for name in plan.spaces}
    num_images = {task.name: task.num_train for task in plan.tasks}
    timings = {}
    with phase("timing a few steps", len(drawn)) as timed, _torch_as_it_was():
        stopwatch = Stopwatch(context, num_images)
        first = next(iter(drawn))
        stopwatch.warm_up(_trials(plan, first, drawn[first])[0])
        for name, found in drawn.items():
            (config,) = _trials(plan, name, found)
            timings[name] = [stopwatch.timing(config, seconds=AT_A_GLANCE_SECONDS)]
            timed.advance()
    return Calibration(drawn=drawn, timings=timings)


def calibrate(
    plan: SweepPlan,
    context: TrialContext,
    slots: Slots,
    *,
    with_ray: bool = False,
    seconds: float = SECONDS,
) -> Calibration:
    """In processes of their own, as many as work at the same time on the processors or the GPU."""
    drawn = {name: _drawn(plan, name, NUM_CONFIGS) for name in plan.spaces}
    trials = {name: _trials(plan, name, found) for name, found in drawn.items()}
    different = {
        name: list({id(trial.config): trial for trial in of_space}.values())
        for name, of_space in trials.items()
    }
    order = [
        (name, of_space[place])
        for place in range(NUM_CONFIGS)
        for name, of_space in different.items()
        if place < len(of_space)
    ]
    question = Question(
        context=context,
        configs=[trial for _, trial in order],
        num_images={task.name: task.num_train for task in plan.tasks},
        num_processes=_num_processes(slots),
        seconds=seconds,
        num_certain=len(drawn),
        deadline=time.monotonic() + AT_MOST_SECONDS,
        worker_module=RAY_WORKER if with_ray else "",
    )
    with phase("timing a few steps of every search space"):
        began = time.monotonic()
        try:
            told = answer_of(
                timed_trials.__name__, pickle.dumps(question), at_most_seconds=AT_MOST_SECONDS
            )
        except NoAnswer as error:
            return without_times(plan, str(error))
    answer = Answer.from_json(told)
    if answer.failure is not None:
        return without_times(plan, answer.failure)
    found = dict(zip((id(trial.config) for _, trial in order), answer.timings, strict=False))
    return Calibration(
        drawn=drawn,
        timings={
            name: [found[id(one.config)] for one in of_space if id(one.config) in found]
            for name, of_space in trials.items()
        },
        start_seconds=answer.ready_at - began,
        base_memory_mib=answer.base_memory_mib,
        in_workers=True,
    )


def _num_processes(slots: Slots) -> int:
    """Of the slots those that share what computes: all of this machine, or all on one GPU."""
    if slots.device == "cpu":
        return max(1, min(slots.num_slots, available_cpus() // slots.cpu_threads))
    return max(1, min(slots.num_slots, int(1 / slots.gpu_share + 1e-6)))


def _drawn(plan: SweepPlan, space: str, count: int = 1) -> TypicalConfigs:
    seed = zlib.crc32(f"{plan.seed}/{space}".encode())
    studies = [study for study in plan.studies if study.space == space]
    return typical_configs(plan.parsed_spaces[space], studies, count, seed=seed)


def _trials(plan: SweepPlan, space: str, drawn: TypicalConfigs) -> list[TrialConfig]:
    """On the first task; a trial's `config` is the very one that was drawn."""
    study = next(study for study in plan.studies if study.space == space)
    method = plan.parsed_spaces[space].method
    return [
        TrialConfig(
            study=study.name, task=study.task, number=0, method=method, config=config, seed=0
        )
        for config in drawn.configs
    ]


@contextlib.contextmanager
def _torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=()):
            yield
    finally:
        torch.set_num_threads(threads)
