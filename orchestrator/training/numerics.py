"""How the trials of a sweep are computed: floating type, attention kernel, what is cached, when
they are validated, whether images are augmented.

One engine for all trials of a sweep, in its plan: what changes the last digits of a result must
not differ between trials that are compared.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from orchestrator.support.document import Between

PRECISIONS = ("fp32", "bf16")
ATTENTIONS = ("fused", "unfused")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Part of a sweep's plan."""

    precision: str = "fp32"
    """fp32, or bf16: autocast over a backbone whose large layers are held in bfloat16. Norms,
    positions, the residual stream, what is trained, the head and the optimiser stay in float32."""
    attention: str = "fused"
    """fused, or unfused: the scores as a matrix, on some CPUs faster in bf16."""
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
        ):
            if value not in known:
                raise ValueError(f"engine: {name} is {value!r}; known: {', '.join(known)}")
        if self.eval_every < 1:
            raise ValueError(f"--eval-every must be at least 1, found {self.eval_every}")

    def cast_frozen(self, vit: nn.Module) -> None:
        """Cast the frozen large layers to the type they are computed in."""
        if self.precision == "bf16":
            for module in vit.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.to(torch.bfloat16)

    @contextmanager
    def computing(self, device: str) -> Iterator[None]:
        """Forward passes inside are computed this way; their backward pass may lie outside."""
        with ExitStack() as stack:
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(device, torch.bfloat16))
            if self.attention == "unfused":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
