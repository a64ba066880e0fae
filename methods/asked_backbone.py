"""What a backbone is asked for with, beside its name."""

from dataclasses import dataclass, field
from pathlib import Path

from methods.argument_values import Arguments
from methods.network import Network


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What an earlier load of the same file decided, so that nothing is asked or assumed again."""

    network: Network | None
    """The network that was decided on; None: as timm builds it, which was so before files were
    asked."""
    part: str | None = None
    """The part of the file that was meant; None: chosen by the rules."""
    architecture: str | None = None
    """Of a model of the hub or a folder: what its config.json said."""
    arguments: Arguments = field(default_factory=dict)
    """All that it was built with, those of a config.json among them."""
    revision: str | None = None
    """The commit that a model of the hub was of."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `load_backbone` was given."""

    weights: Path | None
    image_size: int | None
    pretrained: bool
    arguments: Arguments
    """All that the network is built with beside its name."""
    said: Arguments
    """Those of them that the user gave."""
    decided: Decided | None
