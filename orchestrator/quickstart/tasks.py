"""The three tasks of the suite `quickstart`: nothing to download, the same images every time.

`digits` are real: 1,797 handwritten digits that scikit-learn carries. `generated_textures` and
`generated_orientation` are drawn here from a seed, and differ from what the quickstart's ViT was
pretrained on: other textures, and where a shape points instead of what it is.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 32
NUM_TRAIN, NUM_VAL, NUM_GENERATED = 800, 200, 1500
SEED = 20261121

Pixels = np.ndarray  # uint8: (images, 32, 32) grey, or (images, 32, 32, 3)


@dataclass(frozen=True, kw_only=True)
class _Task:
    name: str
    group: str
    classes: tuple[str, ...]
    source: str
    pixels: Pixels
    labels: np.ndarray


def write_quickstart(root: Path) -> None:
    """Write the three tasks below `root`, each a folder in the community's VTAB-1k layout."""
    for task in (_digits(), _textures(), _orientation()):
        _write_task(root / task.name, task)


def _write_task(folder: Path, task: _Task) -> None:
    lines = {}
    for split, members in _split(task.labels).items():
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        lines[split] = []
        for number, index in enumerate(members):
            name = f"images/{split}/{number:06d}.png"
            Image.fromarray(task.pixels[index]).save(folder / name)
            lines[split].append(f"{name} {task.labels[index]}\n")
    listed = {
        "train800": lines["train"],
        "val200": lines["val"],
        "train800val200": lines["train"] + lines["val"],
        "test": lines["test"],
    }
    for name, entries in listed.items():
        _write_text(folder / f"{name}.txt", "".join(entries))
    _write_text(
        folder / "classes.txt",
        "".join(f"{label}\t{name}\n" for label, name in enumerate(task.classes)),
    )
    description = {
        "name": task.name,
        "group": task.group,
        "num_classes": len(task.classes),
        "source": task.source,
        "seed": SEED,
    }
    _write_text(folder / "task.json", json.dumps(description, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Stratified: images go in the order of their rank in their class, relative to its size."""
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    in_order = shuffled[np.argsort(rank[shuffled], kind="stable")]
    train, val, test = np.split(in_order, [NUM_TRAIN, NUM_TRAIN + NUM_VAL])
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


# ---- digits


def _digits() -> _Task:
    from sklearn.datasets import load_digits

    brightness, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    small = np.round(brightness.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    size = (IMAGE_SIZE, IMAGE_SIZE)
    pixels = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) for image in small]
    return _Task(
        name="digits",
        group="natural",
        classes=tuple("0123456789"),
        source="scikit-learn load_digits: 1,797 handwritten digits, 8x8 grey, scaled up to 32x32",
        pixels=np.stack([np.asarray(image) for image in pixels]),
        labels=labels,
    )


# ---- textures


def _textures() -> _Task:
    rng = np.random.default_rng([SEED, 1])
    draw = {
        "basket": _basket,
        "plaid": lambda u, v, rng: (np.sin(math.pi * u) + np.sin(math.pi * v)) / 2,
        "honeycomb": _honeycomb,
        "cells": _cells,
        "cracks": lambda u, v, rng: 1 - 3 * np.abs(_smooth_noise(rng, len(u), 6, 6)),
        "grain": _grain,
        "rays": lambda u, v, rng: np.sin(8 * np.arctan2(v, u)),
        "spirals": lambda u, v, rng: np.sin(3 * np.arctan2(v, u) + 2 * np.log(u**2 + v**2 + 0.1)),
    }
    labels = np.arange(NUM_GENERATED) % len(draw)
    pixels = np.empty((NUM_GENERATED, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for label, texture in enumerate(draw.values()):
        members = np.flatnonzero(labels == label)
        u, v = _turned_coordinates(rng, len(members))
        contrast = rng.uniform(0.08, 0.35, (len(members), 1, 1))
        pattern = contrast * np.clip(texture(u, v, rng), -1, 1)
        shade = 0.15 * _smooth_noise(rng, len(members), 2, 2)
        pixels[members] = _as_bytes(0.5 + pattern + shade, rng, noise=0.10)
    return _Task(
        name="generated_textures",
        group="specialized",
        classes=tuple(draw),
        source="drawn by orchestrator.quickstart.tasks: eight textures, low contrast, noise",
        pixels=pixels,
        labels=labels,
    )


def _turned_coordinates(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(IMAGE_SIZE) + 0.5) / IMAGE_SIZE - 0.5
    angle = rng.uniform(0, 2 * math.pi, (count, 1, 1))
    scale = rng.uniform(4, 9, (count, 1, 1))
    x = axis[None, None, :] + rng.uniform(-0.3, 0.3, (count, 1, 1))
    y = axis[None, :, None] + rng.uniform(-0.3, 0.3, (count, 1, 1))
    u = scale * (np.cos(angle) * x - np.sin(angle) * y)
    v = scale * (np.sin(angle) * x + np.cos(angle) * y)
    return u, v


def _basket(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Woven: patches of stripes, each across its neighbours."""
    odd = (np.floor(u / 2) + np.floor(v / 2)) % 2 == 1
    return np.where(odd, np.sin(2 * math.pi * u), np.sin(2 * math.pi * v))


def _honeycomb(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three waves at 120 degrees."""
    waves = [np.cos(math.pi * (u * math.cos(a) + v * math.sin(a))) for a in (0, 2.0944, 4.1888)]
    return np.sum(waves, axis=0) / 1.5


def _cells(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Voronoi cells with dark walls: where the two nearest seeds are equally far."""
    seeds = rng.uniform(-6, 6, (len(u), 2, 40))
    squared = [
        (u - seeds[:, 0, k, None, None]) ** 2 + (v - seeds[:, 1, k, None, None]) ** 2
        for k in range(seeds.shape[2])
    ]
    nearest = np.sqrt(np.partition(np.stack(squared), 1, axis=0)[:2])
    return 4 * (nearest[1] - nearest[0]) - 1


def _grain(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise drawn out along one direction, as in wood: many waves of nearly that direction."""
    total = np.zeros_like(u)
    for _ in range(8):
        wave, tilt, phase = rng.uniform(
            [[0.5], [-0.15], [0]], [[2], [0.15], [7]], (3, len(u))
        ).reshape(3, -1, 1, 1)
        total += np.sin(2 * math.pi * wave * (u + tilt * v) + phase)
    return total / 3


# ---- orientation


def _orientation() -> _Task:
    rng = np.random.default_rng([SEED, 2])
    # Clockwise from the right, because rows count downwards.
    classes = (
        "east", "south-east", "south", "south-west", "west", "north-west", "north", "north-east",
    )  # fmt: skip
    labels = np.arange(NUM_GENERATED) % len(classes)
    sector = 2 * math.pi / len(classes)
    angles = sector * (labels + rng.uniform(-0.4, 0.4, len(labels)))
    clean = np.stack([_kite(rng, float(angle)) for angle in angles])
    return _Task(
        name="generated_orientation",
        group="structured",
        classes=classes,
        source="drawn by orchestrator.quickstart.tasks: where a kite points, among thin lines",
        pixels=_as_bytes(clean, rng, noise=0.05),
        labels=labels,
    )


def _kite(rng: np.random.Generator, angle: float) -> np.ndarray:
    """A kite whose long tip points along `angle`; drawn four times too large, then reduced."""
    size = 4 * IMAGE_SIZE
    ground = int(rng.integers(60, 196))
    ink = ground + int(rng.choice([-1, 1])) * int(rng.integers(60, 100))
    image = Image.new("L", (size, size), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        ends = [(int(x), int(y)) for x, y in rng.integers(0, size, (2, 2))]
        pen.line(ends, fill=(ground + ink) // 2, width=3)
    radius = int(rng.integers(34, 48))
    x, y = (int(c) for c in rng.integers(radius, size - radius, 2))
    width = rng.uniform(0.3, 0.8)
    tips = [(1.0, 0.0), (width, 2.2), (0.3, math.pi), (width, -2.2)]
    corners = [
        (x + radius * far * math.cos(angle + turn), y + radius * far * math.sin(angle + turn))
        for far, turn in tips
    ]
    pen.polygon(corners, fill=ink)
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)) / 255


# ---- shared by the generated tasks


def _smooth_noise(rng: np.random.Generator, count: int, rows: int, columns: int) -> np.ndarray:
    """About -1 to 1: a coarse random grid, interpolated bilinearly to the image size."""
    coarse = rng.normal(0, 0.5, (count, rows + 1, columns + 1))
    y = np.linspace(0, rows, IMAGE_SIZE, endpoint=False)
    x = np.linspace(0, columns, IMAGE_SIZE, endpoint=False)
    top, left = y.astype(int), x.astype(int)
    down, right = (y - top)[:, None], x - left
    upper = coarse[:, top][:, :, left] * (1 - right) + coarse[:, top][:, :, left + 1] * right
    lower = (
        coarse[:, top + 1][:, :, left] * (1 - right) + coarse[:, top + 1][:, :, left + 1] * right
    )
    return upper * (1 - down) + lower * down


def _as_bytes(brightness: np.ndarray, rng: np.random.Generator, noise: float) -> Pixels:
    noisy = brightness + noise * rng.standard_normal(brightness.shape)
    return np.round(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
