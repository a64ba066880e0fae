"""What decides a ViT's features and stands in no tensor: heads, activation, norm epsilon."""

from dataclasses import dataclass

from timm.layers import QuickGELU
from timm.layers.activations import GELU, GELUTanh
from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.mlp import Mlp
from timm.models import VisionTransformer
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": GELUTanh,
    "quick_gelu": QuickGELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
}

_ALIASES = {
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quickgelu": "quick_gelu",
    "swish": "silu",
}


def activation_named(name: str) -> str | None:
    """Our name of an activation, from those of other libraries; None for one unknown here."""
    plain = name.rpartition(".")[2].lower()
    plain = _ALIASES.get(plain, plain)
    return plain if plain in ACTIVATIONS else None


@dataclass(frozen=True, kw_only=True)
class Network:
    """One ViT of several that fit the same tensors."""

    num_heads: int
    activation: str
    """A name in ACTIVATIONS, or that of timm's class."""
    norm_eps: float

    def __str__(self) -> str:
        return f"{self.num_heads} heads, {self.activation}, norm eps {self.norm_eps:g}"


def network_of(vit: VisionTransformer) -> Network:
    block = vit.blocks[0]
    activation = getattr(block.mlp, "act", None)
    if isinstance(activation, GELU) or (
        isinstance(activation, nn.GELU) and activation.approximate == "none"
    ):
        name = "gelu"
    else:
        names = (key for key, kind in ACTIVATIONS.items() if type(activation) is kind)
        name = next(names, type(activation).__name__)
    return Network(
        num_heads=block.attn.num_heads,  # type: ignore[union-attr]
        activation=name,
        norm_eps=block.norm1.eps,  # type: ignore[union-attr]
    )


def make_network(vit: VisionTransformer, network: Network) -> None:
    """Change `vit` in place. ValueError where it has no room for such a change."""
    own = network_of(vit)
    if network.activation not in (own.activation, *ACTIVATIONS):
        raise ValueError(f"there is no activation {network.activation!r} here")
    for module in vit.modules():
        if isinstance(module, Attention | AttentionPoolLatent) and (
            network.num_heads != own.num_heads
        ):
            width = module.num_heads * module.head_dim
            if width % network.num_heads or not isinstance(module.q_norm, nn.Identity):
                raise ValueError(f"{network.num_heads} heads do not divide a width of {width}")
            module.num_heads = network.num_heads
            module.head_dim = width // network.num_heads
            module.scale = module.head_dim**-0.5
        if isinstance(module, Mlp) and network.activation != own.activation:
            module.act = ACTIVATIONS[network.activation]()
        if network.norm_eps != own.norm_eps and hasattr(module, "eps"):
            module.eps = network.norm_eps  # type: ignore[assignment]
    if network_of(vit) != network:
        raise ValueError(f"a {type(vit.blocks[0].mlp).__name__} has no {network.activation}")  # type: ignore[union-attr]
