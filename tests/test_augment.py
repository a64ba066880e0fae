"""Crops are those of RandomResizedCrop, drawn per seed and epoch, however a step is cut up."""

import pytest
import torch
from tiny_training import model_of, pixels_of_two_classes, rows_of, tiny_vit
from torch.nn.functional import interpolate

from orchestrator.training.augment import RATIO, SCALE, cut_out, draw_crops
from orchestrator.training.loop import Fit
from orchestrator.training.numerics import Engine


@pytest.fixture(scope="module")
def vit():
    return tiny_vit()


@pytest.fixture(scope="module")
def pixels():
    return pixels_of_two_classes()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def crop(left, top, width, height, mirror=False):
    """In shares of the image."""
    sign = -1.0 if mirror else 1.0
    return torch.tensor(
        [[[sign * width, 0, 2 * left + width - 1], [0, height, 2 * top + height - 1]]]
    ).expand(2, 2, 3)


def test_the_whole_image_is_the_image(images):
    assert cut_out(images, crop(0, 0, 1, 1)).allclose(images, atol=1e-6)
    assert cut_out(images, crop(0, 0, 1, 1, mirror=True)).allclose(images.flip(-1), atol=1e-6)


def test_a_crop_is_that_part_of_the_image_enlarged(images):
    cut = cut_out(images, crop(0.25, 0.5, 0.5, 0.25))
    expected = interpolate(images[:, :, 8:12, 4:12], size=(16, 16), mode="bilinear")
    inside = (slice(None), slice(None), slice(2, -2), slice(1, -1))  # edges see their neighbours
    assert cut[inside].allclose(expected[inside], atol=1e-6)


def test_crops_have_the_area_and_shape_they_should():
    crops = draw_crops(4000, seed=1, epoch=0)
    width, height = crops[:, 0, 0].abs(), crops[:, 1, 1]
    area, ratio = width * height, width / height
    assert SCALE[0] - 1e-6 <= area.min() < 0.1 and 0.95 < area.max() <= SCALE[1]
    assert RATIO[0] - 1e-5 <= ratio.min() and ratio.max() <= RATIO[1] + 1e-5
    corners = crops[:, :, 2].abs() + torch.stack([width, height], dim=1)
    assert corners.max() <= 1 + 1e-6  # no crop leaves the image
    assert (crops[:, 0, 0] < 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_crops_depend_on_seed_and_epoch_alone():
    assert draw_crops(5, seed=3, epoch=2).equal(draw_crops(5, seed=3, epoch=2))
    assert not draw_crops(5, seed=3, epoch=2).equal(draw_crops(5, seed=3, epoch=3))
    assert not draw_crops(5, seed=4, epoch=2).equal(draw_crops(5, seed=3, epoch=2))


def test_augmented_training_is_seeded_and_does_not_depend_on_the_parts_of_a_step(vit, pixels):
    engine = Engine(augment=True)
    whole = rows_of(model_of(vit), pixels, engine=engine)
    assert whole == rows_of(model_of(vit), pixels, engine=engine)
    assert whole != rows_of(model_of(vit), pixels)
    split = rows_of(model_of(vit), pixels, engine=engine, fit=Fit(part_size=5))
    cached = rows_of(model_of(vit), pixels, cached=True, engine=engine)
    for other in (split, cached):  # a cached prefix of whole images must not be trained on
        for a, b in zip(whole, other, strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
