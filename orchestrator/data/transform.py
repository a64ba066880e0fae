"""From an image file's pixels to the square that a backbone sees. Normalisation is the device's."""

import json
import math
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from orchestrator.data.pixels import MAX_PIXELS, as_seen
from orchestrator.data.task import DataError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

INTERPOLATIONS = tuple(_FILTERS)
RESIZES = ("squash", "center_crop")


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """Deterministic, so that every image is decoded once. Filters antialias, as in PIL."""

    image_size: int
    resize: str
    """squash: the whole image, aspect ratio lost. center_crop: shorter side, then the middle."""
    interpolation: str
    """bicubic or bilinear."""
    crop_fraction: float = 1.0
    """Resize to image_size / crop_fraction, then cut out the middle (0.875: 224 out of 256)."""

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise DataError(f"image_size is {self.image_size}; it must be at least 1")
        if self.resize not in RESIZES:
            raise DataError(f"resize is {self.resize!r}; known: squash, center_crop")
        if self.interpolation not in _FILTERS:
            raise DataError(f"interpolation is {self.interpolation!r}; known: bicubic, bilinear")
        if not 0 < self.crop_fraction <= 1:
            raise DataError(f"crop_fraction is {self.crop_fraction}; it must lie in (0, 1]")

    @property
    def key(self) -> str:
        """One text per transform, stable over sessions."""
        return json.dumps(asdict(self), sort_keys=True)

    def apply(self, image: Image.Image) -> np.ndarray:
        """The image as uint8, (image_size, image_size, 3)."""
        rgb = as_seen(image)
        scaled = math.floor(self.image_size / self.crop_fraction)
        width, height = rgb.size
        if self.resize == "squash":
            target = (scaled, scaled)
        elif width <= height:
            target = (scaled, int(scaled * height / width))
        else:
            target = (int(scaled * width / height), scaled)
        if target[0] * target[1] > MAX_PIXELS:
            raise DataError(
                f"{width} x {height} pixels would become {target[0]} x {target[1]}, too elongated "
                "for center_crop; resize='squash' works"
            )
        if rgb.size != target:
            rgb = rgb.resize(target, _FILTERS[self.interpolation])
        left = round((target[0] - self.image_size) / 2)
        top = round((target[1] - self.image_size) / 2)
        if left or top or rgb.size != (self.image_size, self.image_size):
            rgb = rgb.crop((left, top, left + self.image_size, top + self.image_size))
        return np.asarray(rgb)
