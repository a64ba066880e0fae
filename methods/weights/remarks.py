"""What stands inside of a file of weights beside its tensors, in the words of training scripts.

A checkpoint tells of many modules. A number counts as this network's only where it stands beside
its width, its patch size or its name; elsewhere it is kept as loose, for `decide` to compare.
"""

import re
from collections.abc import Mapping
from typing import Any

from methods.backbone_names import outline, present_name
from methods.network import activation_named
from methods.weights.hints import (
    ACTIVATION,
    ARCHITECTURE,
    NORM_EPS,
    NUM_HEADS,
    PATCH_SIZE,
    WIDTH,
    Hint,
    Hints,
    Standing,
    whole,
)
from methods.weights.reading import Content

_OF_OTHERS = re.compile(
    r"heads?|decod\w*|classif\w*|\w*prob(e|es|ing)|neck|proj(s|ect(or|ion)s?)?|criterion|loss(es)?"
    r"|optim\w*|sched\w*|predict\w*|text\w*|lang\w*|teacher|discriminator|adapter|fusion"
)
"""Words in the path of a remark that is of another module than the image encoder."""

_OF_OUTPUTS = {"", "none", "identity", "linear", "softmax", "log_softmax", "sigmoid"}
"""No activation of an MLP, so not this network's."""

_IS_VIT = re.compile(r"(?i)(?<![a-z])(vit|deit)(?![a-z])|vision_?transformer")


def take_remarks(hints: Hints, content: Content, *, width: int, patch: int) -> None:
    """Add them. `width` and `patch` (pixels) are those of the tensors."""
    by_path: dict[str, dict[str, Any]] = {}
    for name, value in content.remarks.items():
        path, _, leaf = name.rpartition(".")
        by_path.setdefault(path, {})[leaf] = value
    for path, values in by_path.items():
        if any(_OF_OTHERS.fullmatch(word) for word in _words(path)):
            continue
        is_own = _describes(values, width, patch)
        standing = Standing.DESCRIPTION if is_own else Standing.LOOSE
        for leaf, value in values.items():
            source = f"{path}.{leaf} in the file" if path else f"{leaf} in the file"
            _take(hints, leaf, value, source, standing)


def _words(path: str) -> list[str]:
    """`model.decodeHead` is of a model, a decode and a head."""
    return re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", path).lower())


def _describes(values: Mapping[str, Any], width: int, patch: int) -> bool:
    """Whether a mapping is of the network of this width and patch size, and says so."""
    agreements = [whole(values[key]) == width for key in WIDTH if key in values]
    agreements += [whole(values[key]) == patch for key in PATCH_SIZE if key in values]
    for key in ARCHITECTURE:
        if isinstance(name := values.get(key), str):
            known = present_name(name)
            if known is not None:
                there = outline(known)
                agreements.append(there is not None and there.embed_dim == width)
            elif _IS_VIT.search(name):
                agreements.append(True)
    return bool(agreements) and all(agreements)


def _take(hints: Hints, leaf: str, value: Any, source: str, standing: Standing) -> None:
    def hint(found: Any) -> Hint:
        return Hint(value=found, source=source, standing=standing)

    if leaf in ARCHITECTURE and isinstance(value, str):
        hints.architectures.append(hint(value))
    elif leaf in NUM_HEADS and (number := whole(value)):
        hints.num_heads.append(hint(number))
    elif leaf in PATCH_SIZE and (number := whole(value)):
        hints.patch_size.append(hint(number))
    elif leaf in ACTIVATION and isinstance(value, str):
        if value.strip().lower() not in _OF_OUTPUTS:
            hints.activation.append(hint(activation_named(value) or value))
    elif leaf in NORM_EPS and isinstance(value, float):
        hints.norm_eps.append(hint(value))
