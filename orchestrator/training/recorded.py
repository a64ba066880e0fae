"""A pass of the network as a CUDA graph: its kernels are launched together, not one by one.

A step of a small backbone is some five hundred kernels of a few microseconds, and Python takes
longer to launch them than the device to run them.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple, ParamSpec, TypeVar
from weakref import WeakMethod

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Action = Callable[[Tensor], tuple[Tensor, ...]]
"""What is computed for some images, by their indices (B,)."""


class _Recording(NamedTuple):
    images: Tensor
    graph: torch.cuda.CUDAGraph
    results: tuple[Tensor, ...]
    gradients: tuple[Tensor | None, ...]


def weakly(method: Callable[P, R]) -> Callable[P, R]:
    """A bound method without its object, for what the object itself holds.

    Else the two hold each other, and the gigabytes of a recording wait for Python to tidy up, which
    knows nothing of a device's memory.
    """
    held = WeakMethod(method)

    def call(*arguments: P.args, **options: P.kwargs) -> R:
        found = held()
        assert found is not None, "only what the object holds may call it"
        return found(*arguments, **options)

    return call


class Recorded:
    """An action that is recorded once per number of images and replayed from then on.

    The replay runs the same kernels on the same addresses, so it draws and computes what the
    action would. What the action does in Python happens while it is recorded and not again.
    """

    def __init__(self, action: Action, learnt: Iterable[torch.nn.Parameter] = ()) -> None:
        """Gradients that `action` leaves in the `learnt` tensors are left there by a replay too."""
        self._action = action
        self._learnt = list(learnt)
        self._recordings: dict[int, _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = _FREE_STREAMS.pop() if _FREE_STREAMS else torch.cuda.Stream()
        self._refused = False
        self._ran: set[int] = set()
        """Numbers of images that it was run for as it is."""

    def once(self, index: Tensor) -> tuple[Tensor, ...]:
        """What the action gives, run as it is where it will be recorded: kernels are chosen and
        compiled, and memory that runs out says so."""
        before = torch.cuda.current_stream()
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            self._forget_gradients()
            results = self._action(index)
        before.wait_stream(self._stream)
        self._ran.add(len(index))
        return results

    def __call__(self, index: Tensor) -> tuple[Tensor, ...]:
        """What the action gives for these images. The next call overwrites it.

        OutOfMemoryError if it does not fit; where it cannot be recorded it is run as it is.
        """
        recording = self._recordings.get(len(index))
        if recording is None and not self._refused:
            recording = self._record(index)
        if recording is None:
            self._forget_gradients()
            return self._action(index)
        recording.images.copy_(index)
        recording.graph.replay()
        for tensor, gradient in zip(self._learnt, recording.gradients, strict=True):
            tensor.grad = gradient
        return recording.results

    def __del__(self) -> None:
        """A graph that is still running must not be taken apart."""
        with suppress(Exception):  # the interpreter ends, or the device is lost
            if self._recordings:
                torch.cuda.synchronize()
                self._recordings.clear()
            _FREE_STREAMS.append(self._stream)

    def _record(self, index: Tensor) -> _Recording | None:
        before = torch.cuda.current_stream()
        if len(index) not in self._ran:
            random = torch.cuda.get_rng_state(index.device)
            try:
                self.once(index)
            finally:  # what was drawn for nothing is drawn again
                torch.cuda.set_rng_state(random, index.device)
        self._forget_gradients()
        held = index.clone()
        torch.cuda.empty_cache()  # its memory is not the recording's
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                results = self._action(held)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            logger.warning("steps are launched kernel by kernel, not recorded: %s", reason)
            torch.cuda.set_stream(before)
            self._refused = True
            torch.cuda.synchronize()
            self._recordings.clear()
            self._forget_gradients()
            torch.cuda.empty_cache()
            _settle(self._stream)
            return None
        gradients = tuple(tensor.grad for tensor in self._learnt)
        recording = _Recording(held, graph, results, gradients)
        self._recordings[len(index)] = recording
        return recording

    def _forget_gradients(self) -> None:
        for tensor in self._learnt:
            tensor.grad = None


_FREE_STREAMS: list[torch.cuda.Stream] = []
"""Used before: for each new stream a process would lose the memory in which matrix products work,
which PyTorch keeps. Two recordings that live at a time have each its own, since some versions of
PyTorch give that memory back with the first of them."""


def _settle(stream: torch.cuda.Stream) -> None:
    """A recording that is broken off may leave the random generator in the state of being recorded,
    in which nothing else can draw; one that succeeds takes it out again."""
    number = torch.zeros((), device="cuda")
    with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        number.add_(torch.rand((), device="cuda"))
    torch.cuda.synchronize()
