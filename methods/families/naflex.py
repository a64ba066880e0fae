"""timm's NaFlexVit on images of one size: C-RADIOv3 and v4, SigLIP 2 and timm's own of any shape.

It can take images of many shapes side by side, as a list of patches with a mask. Here all have one
shape, so that nothing is masked and its blocks are those of a plain ViT. What differs is what
embeds: patches through a linear layer, and positions that are resampled in every pass, for a size
that the network itself does not keep.
"""

from typing import Any

from timm.models.naflexvit import batch_patchify
from torch import Tensor, nn

from methods.families.vit import PlainViT, refused_blocks


class NaFlexViT(PlainViT):
    """Plain blocks behind an embedding of its own."""

    def refuse(self, vit: Any) -> str | None:
        if vit.rope is not None:
            return "its positions are rotated (rope_type), which is known of timm's Eva alone"
        if vit.patch_drop is not None:
            return "it drops patches at random"
        return refused_blocks(vit)

    def image_size(self, vit: Any) -> tuple[int, int]:
        size = vit.embeds.default_img_size
        if size is None:
            raise ValueError(
                "a NaFlexVit of timm keeps no image size: `methods.load_backbone` tells it one"
            )
        return tuple(size)

    def set_image_size(self, vit: Any, size: tuple[int, int]) -> None:
        vit.embeds.default_img_size = size

    def patch_size(self, vit: Any) -> tuple[int, int]:
        return tuple(vit.embeds.patch_size)

    def grid(self, vit: Any) -> tuple[int, int]:
        return tuple(vit.embeds.dynamic_feat_size(self.image_size(vit)))

    def first_weight(self, vit: Any) -> nn.Parameter:
        return vit.embeds.proj.weight

    def patches(self, vit: Any, images: Tensor) -> Tensor:
        embeds = vit.embeds
        if embeds.is_linear:
            flat, _ = batch_patchify(
                images, embeds.patch_size, pad=False, channels_last=embeds.channels_last
            )
            patches = embeds.proj(flat if embeds.norm_input is None else embeds.norm_input(flat))
        else:
            patches = embeds.proj(images).flatten(2).transpose(1, 2)
        return embeds.norm(patches)

    def embed(self, vit: Any, images: Tensor) -> Tensor:
        tokens, _ = vit.embeds(images)
        return vit.norm_pre(tokens)
