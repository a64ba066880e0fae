"""A recording holds gigabytes of a GPU: it goes with its trial, not when Python next tidies up."""

import gc
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from suites import write_task
from tiny_training import model_of, pixels_of_two_classes, tiny_vit
from torch import Tensor
from trials import context_of, trial_config

from orchestrator.data.vtab import read_vtab_task
from orchestrator.training import loop
from orchestrator.training.loop import Inputs, Training
from orchestrator.training.numerics import Engine
from orchestrator.training.trial import Trial
from orchestrator.training.worker_cache import WorkerCache


class Launched:
    """In the place of `Recorded`, which needs a GPU: it holds the action and runs it."""

    alive: ClassVar[weakref.WeakSet["Launched"]] = weakref.WeakSet()

    def __init__(self, action: Callable[[Tensor], tuple[Tensor, ...]], learnt: object = ()) -> None:
        self._action = action
        self.alive.add(self)

    def __call__(self, index: Tensor) -> tuple[Tensor, ...]:
        return self._action(index)

    once = __call__


@pytest.fixture
def untidied() -> Iterator[None]:
    """Nothing goes but what nobody refers to."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Recorded", Launched)
    monkeypatch.setattr(Engine, "records", lambda self, device: True)


@pytest.mark.parametrize("num_epochs", [1, 4])
def test_what_is_recorded_goes_with_its_training(num_epochs: int, launched: None, untidied: None):
    inputs = Inputs(pixels=pixels_of_two_classes(), prefix=None)
    training = Training(model_of(tiny_vit()), inputs, inputs, seed=3)
    assert len(list(islice(training.epochs(), num_epochs))) == num_epochs
    assert len(Launched.alive) == 2  # of the steps, of the validation
    del training
    assert not Launched.alive


def test_what_is_recorded_goes_with_its_trial(launched: None, untidied: None, tmp_path: Path):
    task = read_vtab_task(write_task(tmp_path / "colours"))
    config = trial_config(task.name, "vpt", num_tokens=2, epochs=3, warmup_epochs=0)
    trial = Trial(config, context_of(task, tmp_path / "cache"), WorkerCache(2**28))
    next(trial.epochs())
    assert len(Launched.alive) == 2
    del trial
    assert not Launched.alive


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_memory_of_a_recording_is_free_after_its_trial(untidied: None, tmp_path: Path):
    task = read_vtab_task(write_task(tmp_path / "colours", per_class=40))
    config = trial_config(task.name, "vpt", num_tokens=2, epochs=3, warmup_epochs=0)
    context = context_of(
        task, tmp_path / "cache", device="cuda", engine=Engine(precision="bf16", launch="graph")
    )
    worker_cache = WorkerCache(2**28)

    def reserved_after_an_epoch() -> tuple[int, int]:
        """While the trial is there, and after it."""
        trial = Trial(config, context, worker_cache)
        next(trial.epochs())
        torch.cuda.synchronize()
        there = torch.cuda.memory_reserved()
        del trial
        torch.cuda.empty_cache()
        return there, torch.cuda.memory_reserved()

    reserved_after_an_epoch()  # what libraries keep is there from now on
    rows = [reserved_after_an_epoch() for _ in range(3)]
    assert all(after < there for there, after in rows)
    assert rows[2][1] <= rows[0][1]
