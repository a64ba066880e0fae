"""The transform gives the pixels that the papers' code gives."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from orchestrator.data.pixels import decode
from orchestrator.data.task import DataError
from orchestrator.data.transform import ImageTransform

MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, channels) if channels > 1 else (height, width)
    pixels = np.random.default_rng(width * height).integers(0, 256, shape, dtype=np.uint8)
    return (
        Image.fromarray(pixels, mode=mode) if mode != "P" else Image.fromarray(pixels).quantize(9)
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(4, 48),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_squash_and_centre_crop_equal_torchvision(width, height, size, interpolation):
    image = noise(width, height)
    squash = ImageTransform(image_size=size, resize="squash", interpolation=interpolation)
    expected = transforms.Resize((size, size), MODES[interpolation])(image)
    assert np.array_equal(squash.apply(image), np.asarray(expected))

    crop = ImageTransform(
        image_size=size, resize="center_crop", interpolation=interpolation, crop_fraction=0.875
    )
    reference = transforms.Compose(
        [
            transforms.Resize(int(size / 0.875), MODES[interpolation]),
            transforms.CenterCrop(size),
        ]
    )
    assert np.array_equal(crop.apply(image), np.asarray(reference(image)))


@pytest.mark.parametrize("fraction_size", [(224, 256), (384, 438), (448, 512)])
def test_the_papers_resize_sizes_are_one_crop_fraction(fraction_size):
    size, scaled = fraction_size
    image = noise(scaled, scaled)
    transform = ImageTransform(
        image_size=size, resize="center_crop", interpolation="bicubic", crop_fraction=0.875
    )
    margin = round((scaled - size) / 2)
    assert np.array_equal(
        transform.apply(image), np.asarray(image)[margin : margin + size, margin : margin + size]
    )


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "YCbCr", "1"])
def test_every_opaque_mode_becomes_rgb_as_pil_converts_it(mode):
    image = noise(20, 20, "L").convert("1") if mode == "1" else noise(20, 20, mode)
    transform = ImageTransform(image_size=20, resize="squash", interpolation="bicubic")
    assert np.array_equal(transform.apply(image), np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_refused_and_not_clipped():
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(file, "PNG")
    with pytest.raises(DataError, match="save it with 8 bits"):
        decode(file.getvalue(), "x.png")
    transform = ImageTransform(image_size=4, resize="squash", interpolation="bicubic")
    with pytest.raises(DataError, match="save it with 8 bits"):
        transform.apply(Image.open(file))


def test_an_image_too_elongated_to_crop_is_refused_before_memory_is():
    with pytest.raises(DataError, match="elongated"):
        ImageTransform(image_size=224, resize="center_crop", interpolation="bicubic").apply(
            Image.new("L", (1, 20_000))
        )


@pytest.mark.parametrize(
    "fault",
    [
        {"image_size": 0},
        {"resize": "stretch"},
        {"interpolation": "lanczos"},
        {"crop_fraction": 0.0},
        {"crop_fraction": 1.1},
    ],
)
def test_impossible_transforms_are_refused(fault):
    sound = {"image_size": 8, "resize": "squash", "interpolation": "bicubic"}
    with pytest.raises(DataError, match=next(iter(fault))):
        ImageTransform(**sound | fault)
