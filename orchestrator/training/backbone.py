"""The frozen network of a sweep as it was planned, and how images are prepared for it.

Needs torch, timm and Pillow, nothing of a sweep.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from methods.argument_values import Arguments
from orchestrator.data.transform import INTERPOLATIONS, RESIZES, ImageTransform
from orchestrator.support.document import Between, OneOf, Sha256

if TYPE_CHECKING:  # a plan is read without torch and timm
    from methods.backbones import Backbone, Decided
    from methods.network import Network

MOST_PIXELS = 2048
"""The longest side of an image: 16,384 patches of 16 pixels, four times what any ViT of timm
sees."""

Normal = Annotated[float, Between(-1000, 1000)]
Positive = Annotated[float, Between(1e-6, 1000)]


@dataclass(frozen=True, kw_only=True)
class BackbonePlan:
    """Which frozen network, and how images are prepared for it."""

    name: str
    weights: str | None
    """Absolute path of the weights file; None: timm's own weights, or the embedded ones."""
    weights_sha256: Annotated[str, Sha256()]
    image_size: Annotated[int, Between(1, MOST_PIXELS)]
    num_parameters: Annotated[int, Between(1, 10**12)]
    resize: Annotated[str, OneOf(RESIZES)]
    interpolation: Annotated[str, OneOf(INTERPOLATIONS)]
    crop_fraction: Annotated[float, Between(0.1, 1)]
    mean: tuple[Normal, Normal, Normal]
    std: tuple[Positive, Positive, Positive]
    num_heads: Annotated[int, Between(1, 1024)] | None = None
    """None, also below: planned before files were asked, and as timm builds it."""
    activation: str | None = None
    norm_eps: Annotated[float, Between(0, 1)] | None = None
    part: str | None = None
    """Which of the networks in the weights file."""
    assumed: str = ""
    """What was known of the weights file, and from where; for reading."""
    normalised_by: str = ""
    """Who says mean and std; for reading."""
    architecture: str | None = None
    """Of a model of the hub or a folder: timm's name of what its config.json describes."""
    arguments: Arguments | None = None
    """What timm builds it with beside its name, those of a config.json among them."""
    revision: str | None = None
    """The commit that a model of the hub is of."""

    @property
    def network(self) -> "Network | None":
        from methods.network import Network

        if self.num_heads is None or self.activation is None or self.norm_eps is None:
            return None
        return Network(num_heads=self.num_heads, activation=self.activation, norm_eps=self.norm_eps)

    def sources(self) -> list[str]:
        """In lines: what was known or assumed of a weights file and of the images, from where."""
        lines = []
        if self.architecture or self.arguments:
            said = " ".join(
                f"{name}={list(value) if isinstance(value, tuple) else value}"
                for name, value in (self.arguments or {}).items()
            )
            commit = f" at commit {self.revision[:12]}" if self.revision else ""
            built = self.architecture or self.name.partition(".")[0]
            lines.append(f"built as {built}{said and f' with {said}'}{commit}")
        if self.assumed:
            lines.append(f"its network: {self.assumed}")
        if self.normalised_by:
            mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
            lines.append(f"its images: mean {mean}, std {std} ({self.normalised_by})")
        return lines


def image_transform(backbone: BackbonePlan) -> ImageTransform:
    return ImageTransform(
        image_size=backbone.image_size,
        resize=backbone.resize,
        interpolation=backbone.interpolation,
        crop_fraction=backbone.crop_fraction,
    )


def load_planned_backbone(
    plan: BackbonePlan, device: str, *, frozen: Path | None = None
) -> "Backbone":
    """The backbone of a plan; ValueError if its weights are no longer those that were planned.

    `frozen` is a file that `save_frozen` wrote, instead of what the plan names.
    """
    from methods.backbones import load_frozen

    if frozen is not None:
        decided = _decided(plan, plan.part)
        backbone = load_frozen(plan.name, frozen, image_size=plan.image_size, decided=decided)
    else:
        if plan.weights is not None and not Path(plan.weights).exists():
            raise ValueError(
                f"{plan.weights}: the weights of {plan.name} are not there any more; "
                "where they are now is named with --weights"
            )
        backbone = _load_any(plan)
    if backbone.weights_sha256 != plan.weights_sha256:
        raise ValueError(
            f"{plan.weights or plan.name}: the weights changed since this was planned "
            f"(sha256 {backbone.weights_sha256[:12]} now, {plan.weights_sha256[:12]} then)"
        )
    backbone.vit.to(device)
    return backbone


def _load_any(plan: BackbonePlan) -> "Backbone":
    """The network that the plan names, or, where it names none, the one of its sha256.

    Older versions named none and had other rules of which network in a file is meant.
    """
    from methods.backbones import parts_of

    backbone, refusal = None, None
    try:
        backbone = _load(plan, plan.part)
    except ValueError as error:
        refusal = error
    if plan.weights is None or plan.part is not None:
        parts = ()
    elif backbone is not None:
        is_it = backbone.weights_sha256 == plan.weights_sha256
        parts = () if is_it else backbone.other_parts
    else:
        parts = parts_of(Path(plan.weights))
    for part in parts:
        try:
            other = _load(plan, part)
        except ValueError:  # it does not fit this backbone, so it is not what was planned
            continue
        if other.weights_sha256 == plan.weights_sha256:
            return other
    if backbone is None:
        assert refusal is not None
        raise refusal
    return backbone


def _load(plan: BackbonePlan, part: str | None) -> "Backbone":
    from methods.backbones import load_backbone

    return load_backbone(
        plan.name,
        weights=Path(plan.weights) if plan.weights else None,
        image_size=plan.image_size,
        decided=_decided(plan, part),
    )


def _decided(plan: BackbonePlan, part: str | None) -> "Decided":
    from methods.backbones import Decided

    return Decided(
        network=plan.network,
        part=part,
        architecture=plan.architecture,
        arguments=plan.arguments or {},
        revision=plan.revision,
    )
