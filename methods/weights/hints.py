"""What is said about a network beside its tensors, and how far it may be believed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any


class Standing(Enum):
    """Whom a statement is about."""

    CONFIG = auto()
    """A config file beside the weights: of this network."""
    DESCRIPTION = auto()
    """In the file, beside this network's own width, patch size or name: of this network."""
    LOOSE = auto()
    """Anywhere else in the file: perhaps of a head, a decoder or a network of the past."""


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A statement, and where it stands."""

    value: Any
    source: str
    standing: Standing = Standing.CONFIG
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of an architecture: what it is built with beside its name."""


@dataclass(kw_only=True)
class Hints:
    """All statements; several of one kind may contradict each other."""

    num_heads: list[Hint] = field(default_factory=list)
    activation: list[Hint] = field(default_factory=list)
    norm_eps: list[Hint] = field(default_factory=list)
    patch_size: list[Hint] = field(default_factory=list)
    depth: list[Hint] = field(default_factory=list)
    width: list[Hint] = field(default_factory=list)
    architectures: list[Hint] = field(default_factory=list)
    mean: Hint | None = None
    std: Hint | None = None
    interpolation: Hint | None = None


ARCHITECTURE = ("arch", "architecture", "model", "model_name", "model_arch", "backbone")
NUM_HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads")
ACTIVATION = ("hidden_act", "act_layer", "activation")
NORM_EPS = ("layer_norm_eps", "norm_eps")
PATCH_SIZE = ("patch_size",)
WIDTH = ("embed_dim", "hidden_size")
"""What libraries and scripts call each."""


def whole(value: Any) -> int | None:
    """A whole number above 0, also where it is written as text."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
