"""From a backbone and a method to a model: new, or with the values that were saved of it."""

import torch
from torch import Tensor, nn

from methods.families import check_persistent, check_supported
from methods.method import Images, Method, tuned_dtype
from methods.recipe import Recipe
from methods.sharing import share
from methods.tuned import TunedViT


def tune(
    vit: nn.Module,
    method: Method,
    images: Images | None = None,
    *,
    num_classes: int,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> TunedViT:
    """A ViT adapted by `method` to a task of `num_classes`, at its initial values.

    `vit` stays untouched and its frozen weights are shared, not copied; only backbone weights
    that the method trains are cloned. `images` is for methods that look at training images.
    Everything random comes from `seed`; the global generators are left alone.
    """
    check_supported(vit)
    recipe = recipe or method.recipe()
    generator = torch.Generator().manual_seed(seed)
    trained = {id(weight) for weight in method.trained_weights(vit)}
    shared = share(vit, trained, tuned_dtype(vit))
    shared.eval()  # a method that looks at images sees them as they are, also where `vit` learns
    tuning = method.tuning(shared, generator, images)
    if tuning.persistent:
        check_persistent(shared, method)
    return TunedViT(
        shared,
        tuning,
        method=method,
        recipe=recipe,
        num_classes=num_classes,
        generator=generator,
    )


def restore(
    vit: nn.Module,
    method: Method,
    state: dict[str, Tensor],
    *,
    num_classes: int,
    recipe: Recipe | None = None,
) -> TunedViT:
    """The model whose `saved_state` was `state`: needs no images, whatever its method looked at."""
    model = tune(
        vit, method.without_images(), num_classes=num_classes, recipe=recipe or method.recipe()
    )
    model.method = method
    model.load_tuned_state(state)
    return model
