"""The families of backbones: which one a network is of.

A new family is a file beside these and a line in `FAMILIES`.
"""

from functools import cache
from importlib import import_module

from torch import nn

from methods.families.family import Family, Site
from methods.timm_names import SUPPORTED

FAMILIES = {
    "timm.models.vision_transformer:VisionTransformer": "methods.families.vit:PlainViT",
    "timm.models.eva:Eva": "methods.families.eva:EvaViT",
    "timm.models.beit:Beit": "methods.families.beit:BeitViT",
    "timm.models.vision_transformer_relpos:VisionTransformerRelPos": (
        "methods.families.relpos:RelPosViT"
    ),
    "timm.models.naflexvit:NaFlexVit": "methods.families.naflex:NaFlexViT",
    "timm.models.swin_transformer:SwinTransformer": "methods.families.swin:Swin",
    "timm.models.swin_transformer_v2:SwinTransformerV2": "methods.families.swin:SwinV2",
}
"""By the class of the network, exactly that: what inherits from it may do something else."""

__all__ = [
    "FAMILIES",
    "Family",
    "Site",
    "check_persistent",
    "check_supported",
    "family_of",
    "sites_of",
]


def family_of(vit: nn.Module) -> Family:
    """The family of a backbone. ValueError where it is of none."""
    kind = type(vit)
    where = FAMILIES.get(f"{kind.__module__}:{kind.__qualname__}")
    if where is None:
        raise ValueError(_refusal(f"it is a {kind.__name__}, of no family that is known here"))
    return _family(where)


@cache
def _family(where: str) -> Family:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)()


def sites_of(vit: nn.Module) -> tuple[Site, ...]:
    """The attentions of a backbone, in their order."""
    return family_of(vit).sites(vit)


def check_supported(vit: nn.Module) -> None:
    """Refuse what the walk would compute wrongly, by name and with the reason."""
    if reason := family_of(vit).refuse(vit):
        raise ValueError(_refusal(reason))


def check_persistent(vit: nn.Module, method: object) -> None:
    """Refuse prompts that stay in the sequence where a backbone has no place for them."""
    if reason := family_of(vit).refuse_persistent():
        raise ValueError(
            f"{type(method).__name__}: its prompts stay in the sequence, which has no place for"
            f" them in this backbone: {reason}. Deep prompts, new in every block, work (vpt, spt,"
            " vfpt and bpt with deep: true), and so do cvpt, apt, lora, adapter, linear, bias,"
            " partial and full"
        )


def _refusal(reason: str) -> str:
    return f"this backbone cannot be tuned: {reason}. {SUPPORTED}"
