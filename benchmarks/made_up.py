"""Images and weights by chance, for measurements of time on a machine that has no others."""

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

NUM_CLASSES = 10
COARSE = 16
"""Pixels of a side before an image is enlarged: as smooth as photographs, so that files are small
and are decoded as fast as theirs."""


def write_images(root: Path, *, size: int = 224, num_train: int = 800, num_val: int = 200) -> Path:
    """A suite with one task, `colours`, whose classes differ in colour: as many images as VTAB-1k
    has, in the folders train and val."""
    generator = np.random.default_rng(0)
    colours = generator.integers(60, 190, size=(NUM_CLASSES, 3))
    for split, count in (("train", num_train), ("val", num_val)):
        for number in range(count):
            label = number % NUM_CLASSES
            folder = root / "colours" / split / f"class_{label}"
            folder.mkdir(parents=True, exist_ok=True)
            coarse = colours[label] + generator.normal(0, 40, size=(COARSE, COARSE, 3))
            image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
            image.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number:04}.jpg")
    return root


def write_weights(backbone: str, path: Path) -> Path:
    """Weights of a timm ViT as it is initialised, in a file that `--weights` takes."""
    torch.manual_seed(0)
    vit = timm.create_model(backbone, num_classes=0)
    save_file({name: value.contiguous() for name, value in vit.state_dict().items()}, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="gets `images` and a file for each backbone")
    parser.add_argument("--size", type=int, default=224, help="of an image, in pixels")
    parser.add_argument("--train", type=int, default=800, help="images")
    parser.add_argument("--val", type=int, default=200, help="images")
    parser.add_argument("--weights", nargs="*", default=[], help="timm's names of backbones")
    options = parser.parse_args()
    write_images(
        options.folder / "images",
        size=options.size,
        num_train=options.train,
        num_val=options.val,
    )
    for backbone in options.weights:
        write_weights(backbone, options.folder / f"{backbone}.safetensors")


if __name__ == "__main__":
    main()
