"""How a method changes a frozen Vision Transformer."""

from methods.adapter import Adapter
from methods.apt import APT
from methods.backbones import Backbone, load_backbone
from methods.bias import Bias
from methods.full import Full
from methods.gatevpt import GateVPT
from methods.linear import Linear
from methods.lora import LoRA
from methods.lspt import LSPT
from methods.method import Method
from methods.partial import Partial
from methods.recipe import Recipe, build_optimizer, lr_factor, peak_lr, with_epochs
from methods.spt import SPT, TokenStatistics, token_statistics
from methods.vpt import VPT
from methods.walk import TunedViT, restore, tune

METHODS: dict[str, type[Method]] = {
    "linear": Linear,
    "full": Full,
    "partial": Partial,
    "bias": Bias,
    "vpt": VPT,
    "spt": SPT,
    "gatevpt": GateVPT,
    "lspt": LSPT,
    "apt": APT,
    "lora": LoRA,
    "adapter": Adapter,
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
