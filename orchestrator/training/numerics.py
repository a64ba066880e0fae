"""How the trials of a sweep are computed: floating type, attention kernel, how a step is launched,
what is cached, when they are validated, whether images are augmented.

One engine for all trials of a sweep, in its plan: what changes the last digits of a result must
not differ between trials that are compared.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from orchestrator.support.document import Between

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("fp32", "bf16")
ATTENTIONS = ("fused", "unfused")
LAUNCHES = ("eager", "graph", "compiled")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Part of a sweep's plan."""

    precision: str = "fp32"
    """fp32, or bf16: autocast over a backbone whose large layers are held in bfloat16. Norms,
    positions, the residual stream, what is trained, the head and the optimiser stay in float32."""
    attention: str = "fused"
    """fused, or unfused: the scores as a matrix, on some CPUs faster in bf16."""
    launch: str = "eager"
    """On a GPU: eager, kernel by kernel; graph, a step recorded once and replayed; compiled, the
    same with the parts of a block that are bound by memory fused."""
    deterministic: bool = False
    """On a GPU: only kernels that add in the same order each time, so that equal seeds give equal
    numbers to the last digit. A CPU does so anyway."""
    frozen_cache: bool = True
    """Keep what the frozen network makes of each image in front of the first trained tensor."""
    eval_every: Annotated[int, Between(1, 10**6)] = 1
    """Validate after every so many epochs; always at a rung of the pruner and after the last."""
    augment: bool = False
    """Train on random resized crops and mirror images."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("attention", self.attention, ATTENTIONS),
            ("launch", self.launch, LAUNCHES),
        ):
            if value not in known:
                raise ValueError(f"engine: {name} is {value!r}; known: {', '.join(known)}")
        if self.eval_every < 1:
            raise ValueError(f"--eval-every must be at least 1, found {self.eval_every}")

    def cast_frozen(self, vit: "nn.Module") -> None:
        """Cast the frozen large layers to the type they are computed in."""
        if self.precision == "bf16":
            import torch
            from torch import nn

            for module in vit.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.to(torch.bfloat16)

    def records(self, device: str) -> bool:
        """Whether steps are recorded and replayed."""
        return device == "cuda" and self.launch != "eager"

    def compiles(self, device: str) -> bool:
        """Whether parts of a block are compiled."""
        return device == "cuda" and self.launch == "compiled"

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """Forward and backward passes inside choose their kernels as `deterministic` asks."""
        if not self.deterministic:
            yield
            return
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch insists on it
        before = torch.are_deterministic_algorithms_enabled()
        memory: Any = torch.utils.deterministic  # a module whose attributes no checker knows
        fills = memory.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # we read nothing unwritten
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            memory.fill_uninitialized_memory = fills

    @contextmanager
    def computing(self, device: str) -> Iterator[None]:
        """Forward passes inside are computed this way; their backward pass may lie outside."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with ExitStack() as stack:
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(device, torch.bfloat16))
            if self.attention == "unfused":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
