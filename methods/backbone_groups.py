"""The pretrainings of timm under the names that people ask for, and what each is known for.

Which networks there are, how large and under which license, timm says (`backbone_catalogue.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from methods.backbone_catalogue import Architecture, architectures
from methods.catalogue import reference


@dataclass(frozen=True, kw_only=True)
class Group:
    """Backbones that were trained alike."""

    title: str
    about: str
    patterns: Sequence[str]
    """Of what `--backbone` takes, as a shell matches names of files; the best known first."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One name that `--backbone` takes."""

    name: str
    group: Group
    architecture: Architecture
    license: str | None
    """Of its weights, as timm says; None where it says none, or has no weights."""


GROUPS = (
    Group(
        title="ViT, ImageNet-21k",
        about="supervised; in VPT's tables and most papers on prompts",
        patterns=("vit_*.orig_in21k*", "vit_*.augreg*", "vit_*.sam_in1k", "vit_*_miil.*"),
    ),
    Group(
        title="DeiT, DeiT III",
        about="supervised, ImageNet-1k or 21k",
        patterns=("deit*.*",),
    ),
    Group(
        title="MAE",
        about="rebuilds masked pixels; features that need tuning",
        patterns=("*.mae",),
    ),
    Group(title="DINO", about="self-supervised, ImageNet-1k", patterns=("*.dino",)),
    Group(
        title="DINOv2",
        about="self-supervised, 142 million images; with and without registers",
        patterns=("*_dinov2.*",),
    ),
    Group(
        title="DINOv3",
        about="self-supervised, 1.7 billion images",
        patterns=("*_dinov3*.lvd1689m",),
    ),
    Group(
        title="DINOv3, satellite",
        about="self-supervised, 493 million satellite images",
        patterns=("*_dinov3*.sat493m",),
    ),
    Group(
        title="EUPE",
        about="small encoders built as DINOv3",
        patterns=("*.eupe_*",),
    ),
    Group(
        title="I-JEPA",
        about="self-supervised, predicts features of masked parts",
        patterns=("*_ijepa",),
    ),
    Group(title="MetaCLIP 2", about="images and texts, worldwide", patterns=("*.metaclip2_*",)),
    Group(title="MetaCLIP", about="images and texts", patterns=("*.metaclip_*",)),
    Group(title="DFN", about="images and texts, filtered by a network", patterns=("*.dfn*",)),
    Group(
        title="SigLIP 2",
        about="images and texts in many languages",
        patterns=("*_siglip_*.v2_webli", "*_siglip.v2_webli"),
    ),
    Group(title="SigLIP", about="images and texts", patterns=("*_siglip_*.webli*",)),
    Group(
        title="PaliGemma",
        about="SigLIP as tuned inside PaliGemma",
        patterns=("*_siglip_*.pali*",),
    ),
    Group(
        title="CLIP, small",
        about="TinyCLIP and MobileCLIP 2, images and texts",
        patterns=("*.tinyclip_*", "*.apple_mclip2_*"),
    ),
    Group(
        title="Perception Encoder",
        about="images, videos and texts; core, for language models, for dense tasks",
        patterns=("vit_pe_*.*",),
    ),
    Group(title="EVA-02", about="masked features of CLIP, also as CLIP", patterns=("eva02_*.*",)),
    Group(title="EVA", about="masked features of CLIP", patterns=("eva_*.*",)),
    Group(
        title="CLIP",
        about="images and texts; OpenAI, LAION, DataComp; some tuned on ImageNet",
        patterns=("vit_*_clip_*.openai", "vit_*_clip_*.*"),
    ),
    Group(title="AIMv2", about="images and texts, autoregressive", patterns=("aimv2_*.*",)),
    Group(title="BEiT-3", about="images and texts, masked", patterns=("beit3_*.*",)),
    Group(title="BEiT, BEiT v2", about="masked visual words", patterns=("beit_*.*", "beitv2_*.*")),
    Group(
        title="C-RADIO",
        about="distilled from several foundation models",
        patterns=("*vit_*_radio_*.*",),
    ),
    Group(title="TIPSv2", about="images and texts, patches aligned", patterns=("*_tipsv2.*",)),
    Group(title="InternViT", about="the eyes of InternVL", patterns=("vit_intern300m_*.*",)),
    Group(title="LingBot-Vision", about="for dense spatial tasks", patterns=("*_lingbot*.*",)),
    Group(title="Sapiens2", about="for images of people", patterns=("*_sapiens2*.*",)),
    Group(
        title="RoPE-ViT",
        about="supervised, ImageNet-1k, rotary positions",
        patterns=("vit_*_rope_*.*",),
    ),
    Group(title="FlexiViT", about="supervised; for any patch size", patterns=("flexivit_*.*",)),
    Group(
        title="NaFlexViT",
        about="supervised, ImageNet-1k; for images of any shape, here of one",
        patterns=("naflexvit_*.*",),
    ),
    Group(
        title="ViT, relative positions",
        about="supervised, ImageNet-1k, timm's own recipe",
        patterns=("vit_relpos_*.*",),
    ),
    Group(
        title="SBB",
        about="timm's own recipes, sizes in between",
        patterns=("vit_*.sbb*", "vit_*.sw_*"),
    ),
    Group(
        title="Swin",
        about="supervised, windows; with ImageNet-21k VPT's second backbone",
        patterns=("swin_*.ms_in22k", "swin_*.*"),
    ),
    Group(title="Swin V2", about="supervised, windows", patterns=("swinv2_*.*",)),
    Group(title="others", about="", patterns=("*.*",)),
    Group(title="without weights", about="timm has none: give a file", patterns=("*",)),
)
"""A name belongs to the first whose pattern it matches."""


def members(text: str = "") -> list[Member]:
    """What `--backbone` takes, by group, the smallest first; only with `text` in name or group."""
    found = [
        Member(
            name=name,
            group=group_of(name),
            architecture=architecture,
            license=architecture.licenses.get(name.partition(".")[2]),
        )
        for architecture in architectures()
        for name in architecture.names
    ]
    told = [each for each in found if text.lower() in f"{each.name} {each.group.title}".lower()]
    return sorted(
        told, key=lambda each: (GROUPS.index(each.group), each.architecture.parameters, each.name)
    )


def example_of(group: Sequence[Member]) -> Member:
    """The one that is nearest in size to the ViT-B of most papers."""
    _, usual = reference()

    def order(each: Member) -> tuple[int, int, int]:
        known = [fnmatchcase(each.name, pattern) for pattern in each.group.patterns].index(True)
        return abs(each.architecture.parameters - usual) // 10_000_000, known, len(each.name)

    return min(group, key=order)


def group_of(name: str) -> Group:
    """The first that it matches."""
    return next(
        group for group in GROUPS if any(fnmatchcase(name, each) for each in group.patterns)
    )
