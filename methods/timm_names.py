"""timm's names of networks, read in its files: importing timm takes seconds, a typo should not.

timm's registry is the truth. Who uses it already in this process may have added networks of their
own there, so that nothing is said of a name then; nor where its files are not as they were.
"""

import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from methods.backbone_catalogue import architectures
from methods.checks import did_you_mean
from methods.hub_names import hub_name, refuse_absent_folder

QUICKSTART = "vit_quickstart"
"""The small ViT that comes with this package."""

MODULES = ("timm.models.vision_transformer", "timm.models.deit")
"""Where timm has its plain ViTs."""

SUPPORTED = (
    "Supported are the plain ViTs of timm: vit_* and deit_* (ImageNet, MAE, MoCo-v3, DINO),"
    " deit3_*, vit_*_dinov2 with and without registers, vit_*_clip_*, vit_*_siglip_*, aimv2_*,"
    " flexivit_* and naflexvit_*; with rotary positions vit_*_dinov3, vit_pe_*, eva*,"
    " vit_*_rope_*, with relative ones beit* and vit_relpos_*, with windows swin_* and swinv2_*"
    " but for swinv2_cr_*; not those with parallel blocks, distillation tokens or convolutional"
    " stems. All names: `orchestrator methods --backbones`."
)

_ENTRY_POINT = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)


def plain_name(name: str) -> str:
    """Without the hub that may stand before a name: `vit_tiny_patch16_224.augreg_in21k`."""
    return re.sub(r"^(hf[-_]hub:)?(timm/)?", "", name)


def unknown_backbone(name: str) -> str:
    """The message for a name that timm does not know."""
    plain = plain_name(name)
    if "/" in plain:
        hint = (
            "it looks like a model of the Hugging Face hub, which is named"
            f" hf-hub:{plain}; a folder in the hub's format is named local-dir:FOLDER"
        )
    else:
        ours = [*tuned_names(), QUICKSTART]
        hint = did_you_mean(plain.partition(".")[0].lower(), ours, most=3) or SUPPORTED
    return f"timm has no backbone {name!r}; {hint}"


def refuse_unknown_backbone(name: str) -> None:
    """ValueError where no file of timm names it. It is quick, and may let a wrong name pass.

    Of a folder on this disk it is looked whether it is there; the hub is not asked.
    """
    if (of_hub := hub_name(name)) is not None:
        return refuse_absent_folder(of_hub)
    architecture = plain_name(name).partition(".")[0]
    if architecture == QUICKSTART or "timm" in sys.modules:
        return
    if not any(_ENTRY_POINT.search(text) for text in _sources().values()):
        return  # they are not as they were
    # Names of older timm stand in quotes, beside those of today.
    known = (f"def {architecture}(", f"'{architecture}'")
    if not any(one in text for text in _sources().values() for one in known):
        raise ValueError(unknown_backbone(name))


def tuned_names() -> list[str]:
    """Of the architectures that can be tuned those that timm's files here register; none where
    these cannot be read."""
    here = {found for text in _sources().values() for found in _ENTRY_POINT.findall(text)}
    return [one.name for one in architectures() if one.name in here]


@cache
def _sources() -> dict[str, str]:
    """The text of timm's modules of models, by name."""
    spec = find_spec("timm")
    folders = (spec and spec.submodule_search_locations) or ()
    files = [file for folder in folders for file in (Path(folder) / "models").glob("*.py")]
    return {f"timm.models.{file.stem}": file.read_text(encoding="utf-8") for file in files}
