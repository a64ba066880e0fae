"""A frozen backbone with what a method adds to it and a new head."""

import torch
from torch import Tensor, nn

from methods.families import family_of
from methods.method import Method, Tuning, tuned_dtype
from methods.readout import chosen_readout, new_head, prepare_final_norm
from methods.recipe import Recipe
from methods.walk import Walk

_MOST_DIFFERENCES = 5


class TunedViT(Walk):
    """A frozen backbone, what a method adds to it, and a new head.

    `forward(images)` equals `forward_from(prefix(images))`: the prefix is what is constant for an
    image, so a caller may compute it once and keep it. It may be in another floating type than
    the tuned tensors.
    """

    def __init__(
        self,
        vit: nn.Module,
        tuning: Tuning,
        *,
        method: Method,
        recipe: Recipe,
        num_classes: int,
        generator: torch.Generator,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: a task has at least two classes")
        family = family_of(vit)
        readout = chosen_readout(family, vit, tuning, recipe)
        device, dtype = family.first_weight(vit).device, tuned_dtype(vit)
        vit.head = nn.Identity()
        super().__init__(vit, tuning.to(device), readout=readout, drop_path=recipe.drop_path)
        self.method = method
        self.recipe = recipe
        self.num_classes = num_classes
        prepare_final_norm(family, vit, recipe)
        width = family.feature_width(vit, readout)
        self.head = new_head(width, num_classes, recipe, generator, dtype).to(device)
        self._constant_blocks = self._count_constant_blocks()
        self.train()

    # What is trained

    def tuned_state(self) -> dict[str, Tensor]:
        """The trained tensors by name, detached."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def saved_state(self) -> dict[str, Tensor]:
        """All that has to be saved: `tuned_state`, and what the method once drew or computed from
        images and does not train (frozen parameters of its tuning)."""
        return {
            name: p.detach()
            for name, p in self.named_parameters()
            if p.requires_grad or name.startswith("tuning.")
        }

    def load_tuned_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `saved_state` of an equally configured model gave."""
        own = self.saved_state()
        differences = [f"{name} is missing" for name in own.keys() - state.keys()]
        differences += [f"{name:.60} is unknown" for name in state.keys() - own.keys()]
        differences += [
            f"{name} has shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
            for name in own.keys() & state.keys()
            if own[name].shape != state[name].shape
        ]
        differences += [
            f"{name} is {state[name].dtype}, not {own[name].dtype}"
            for name in own.keys() & state.keys()
            if own[name].dtype != state[name].dtype
        ]
        if differences:
            raise ValueError(
                f"this state does not fit {self.method} with {self.num_classes} classes: "
                + "; ".join(sorted(differences)[:_MOST_DIFFERENCES])
                + (
                    f"; and {more} more"
                    if (more := len(differences) - _MOST_DIFFERENCES) > 0
                    else ""
                )
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])

    @property
    def num_tuned_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tuned_state().values())

    def train(self, mode: bool = True) -> "TunedViT":
        """A frozen backbone stays in evaluation mode: no dropout or stochastic depth of its own."""
        super().train(mode)
        if not self.method.trains_backbone:
            self.vit.eval()
        return self

    # The pass

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of normalised images (B, 3, H, W)."""
        return self.forward_from(self.prefix(images))

    @property
    def prefix_key(self) -> tuple[str | int, ...] | None:
        """Equal keys on one backbone mean equal prefixes; None where nothing is constant."""
        if self._constant_blocks is None:
            return None
        if self._constant_blocks < self.depth:
            return ("blocks", self._constant_blocks)
        if self.recipe.final_norm == "trainable":
            return ("rows", self.readout)
        return ("features", self.readout, self.recipe.final_norm)

    @property
    def prefix_is_features(self) -> bool:
        """Whether only the head is left to be computed from a prefix."""
        return self.prefix_key is not None and self.prefix_key[0] == "features"

    @torch.no_grad()
    def prefix(self, images: Tensor) -> Tensor:
        """What no trained tensor changes: tokens (B, T, d) after some blocks, the features (B, d),
        or the images themselves where already the first layer is trained."""
        constant = self._constant_blocks
        if constant is None:
            return images
        tokens = self.blocks_until(constant, self.family.embed(self.vit, images))
        if constant == self.depth and self.recipe.final_norm != "trainable":
            return self._features(tokens)
        return tokens

    def forward_from(self, prefix: Tensor) -> Tensor:
        """Logits (B, C) from what `prefix` gave."""
        features = prefix if prefix.ndim == 2 else self.features_from(prefix)
        # Also under autocast: rounded logits would make ties where there are none.
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.to(self.head.weight.dtype))

    def features_from(self, prefix: Tensor) -> Tensor:
        """What the head reads (B, d), from a prefix that is not yet the features."""
        self.tuning.begin()
        start, tokens = self._constant_blocks, prefix
        if start is None:
            start, tokens = 0, self.family.embed(self.vit, prefix)
        return self._features(self.blocks_from(start, tokens))

    def _features(self, rows: Tensor) -> Tensor:
        in_sequence = self.tuning.num_prompts if self.tuning.persistent else 0
        return self.family.features(self.vit, rows, self.readout, in_sequence)

    def _count_constant_blocks(self) -> int | None:
        """Blocks that no trained tensor and nothing random changes; None: not even the patches."""
        family, vit = self.family, self.vit
        parts = [list(family.block_parts(vit, index)) for index in range(self.depth)]
        behind = {id(p) for part in family.readout_parts(vit) for p in part.parameters()}
        behind |= {id(p) for modules in parts for part in modules for p in part.parameters()}
        if any(p.requires_grad and id(p) not in behind for p in vit.parameters()):
            return None
        if self.recipe.drop_path > 0:
            return 0
        trained = [
            index
            for index, modules in enumerate(parts)
            if any(p.requires_grad for part in modules for p in part.parameters())
        ]
        return min([self.tuning.first_block, self.depth, *trained])
