"""How a method changes a frozen Vision Transformer.

Everything here is imported when it is asked for: names of methods are known without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from methods.registry import Registry

if TYPE_CHECKING:
    from methods.assemble import restore, tune
    from methods.backbones import Backbone, load_backbone
    from methods.linear import Linear as Linear  # as a name of this package
    from methods.method import Method
    from methods.recipe import Recipe, build_optimizer, lr_factor, peak_lr, with_epochs
    from methods.spt import TokenStatistics, token_statistics
    from methods.tuned import TunedViT
    from methods.vpt import VPT as VPT

METHODS = Registry(
    {
        "linear": "methods.linear:Linear",
        "full": "methods.full:Full",
        "partial": "methods.partial:Partial",
        "bias": "methods.bias:Bias",
        "vpt": "methods.vpt:VPT",
        "spt": "methods.spt:SPT",
        "vfpt": "methods.vfpt:VFPT",
        "vipamin": "methods.vipamin:VIPAMIN",
        "bpt": "methods.bpt:BPT",
        "gatevpt": "methods.gatevpt:GateVPT",
        "lspt": "methods.lspt:LSPT",
        "apt": "methods.apt:APT",
        "cvpt": "methods.cvpt:CVPT",
        "vapt": "methods.vapt:VAPT",
        "lora": "methods.lora:LoRA",
        "adapter": "methods.adapter:Adapter",
    }
)

_WHERE = {  # beside METHODS, which has every method
    "Backbone": "methods.backbones",
    "Linear": "methods.linear",
    "Method": "methods.method",
    "Recipe": "methods.recipe",
    "TokenStatistics": "methods.spt",
    "TunedViT": "methods.tuned",
    "VPT": "methods.vpt",
    "build_optimizer": "methods.recipe",
    "load_backbone": "methods.backbones",
    "lr_factor": "methods.recipe",
    "peak_lr": "methods.recipe",
    "restore": "methods.assemble",
    "token_statistics": "methods.spt",
    "tune": "methods.assemble",
    "with_epochs": "methods.recipe",
}

__all__ = [
    "METHODS",
    "Backbone",
    "Method",
    "Recipe",
    "TokenStatistics",
    "TunedViT",
    "build_optimizer",
    "load_backbone",
    "lr_factor",
    "peak_lr",
    "restore",
    "token_statistics",
    "tune",
    "with_epochs",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
