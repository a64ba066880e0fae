"""Whether the walk computes what timm computes: one image's features, by both."""

from typing import Any

import torch

from methods.assemble import tune
from methods.families import family_of
from methods.linear import Linear

TESTED = "timm<1.1,>=1.0.31"
"""As pyproject.toml has it; a test holds them together."""

TOLERANCE = 1e-3
"""The largest difference, in shares of the features' length. Rounding makes a thousandth of it,
another operation far more."""


def check_agreement(vit: Any) -> None:
    """ValueError where the walk gives other features of an image than timm itself.

    As when timm's attention has learnt an operation that `walk.py` does not know: every trial would
    tune another network than the one that was asked for. In float32, without a GPU.
    """
    size = family_of(vit).image_size(vit)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        try:
            expected = vit.forward_head(vit.forward_features(image), pre_logits=True)
        except Exception as error:  # of timm and torch, in a network that was said to be so
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(f"timm cannot compute this backbone's features: {reason}") from error
        found = tune(vit, Linear(), num_classes=2).prefix(image)
    if not expected.isfinite().all():
        raise ValueError("this backbone's features of an image are not finite numbers")
    apart = float((found - expected).norm() / expected.norm())
    if not apart <= TOLERANCE:
        raise ValueError(
            "this backbone cannot be tuned: timm computes something that our walk through its "
            f"blocks does not (its features of an image are {apart:.1%} apart); "
            f"install a timm that was tested, '{TESTED}'"
        )
