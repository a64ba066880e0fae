"""Small image suites on disk, made by the tests that need them."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_task(
    root: Path,
    *,
    num_classes: int = 3,
    per_class: int = 8,
    seed: int = 0,
    counts: Sequence[int] = (),
    noise: float = 40,
) -> Path:
    """A task in the VTAB layout whose classes differ in colour, with noise; 24 images a split.

    `counts` are images of each class in each split, where classes are not alike.
    """
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    if not counts:
        labels = [index % num_classes for index in range(num_classes * per_class)]
    num_classes = max(labels) + 1
    generator = np.random.default_rng(seed)
    colours = generator.integers(60, 190, size=(num_classes, 3))
    lists: dict[str, list[str]] = {}
    for split, folder in (("train800", "train"), ("val200", "val"), ("test", "test")):
        (root / "images" / folder).mkdir(parents=True)
        for index, label in enumerate(labels):
            grain = generator.normal(0, noise, size=(20, 24, 3))
            pixels = np.clip(colours[label] + grain, 0, 255).astype(np.uint8)
            name = f"images/{folder}/{index:06}.png"
            Image.fromarray(pixels).save(root / name)
            lists.setdefault(split, []).append(f"{name} {label}")
    lists["train800val200"] = lists["train800"] + lists["val200"]
    for split, lines in lists.items():
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_suite(root: Path, names: tuple[str, ...] = ("colours_a", "colours_b")) -> Path:
    """A folder of tasks in the VTAB layout."""
    for seed, name in enumerate(names):
        write_task(root / name, seed=seed)
    return root


def write_pictures(root: Path, *folders: str, images: int = 10) -> Path:
    """Small images, no two alike, in these folders."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        seed = zlib.crc32(f"{root.name}/{folder}".encode())
        generator = np.random.default_rng(seed)
        for number in range(images):
            pixels = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


def write_photos(root: Path, **images_of_class: int) -> Path:
    """A folder for each class, whose images have its colour, with noise."""
    for number, (name, images) in enumerate(images_of_class.items()):
        (root / name).mkdir(parents=True)
        generator = np.random.default_rng(zlib.crc32(f"{root.name}/{name}".encode()))
        for index in range(images):
            pixels = generator.normal((60 + 90 * number, 120, 200 - 90 * number), 25, (48, 64, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(root / name / f"{index}.jpg")
    return root
