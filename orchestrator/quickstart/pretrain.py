"""Train the small ViT that the package carries, on images drawn by our own code.

    python -m orchestrator.quickstart.pretrain --out methods/assets

writes vit_quickstart.safetensors and vit_quickstart.json, which holds the recipe and the accuracy.
On one CPU core it takes about half an hour.
"""

import argparse
import hashlib
import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from orchestrator.quickstart.glyphs import (
    GLYPHS,
    HELD_OUT_FONTS,
    IMAGE_SIZE,
    TRAIN_FONTS,
    Bank,
    build_bank,
    class_names,
    draw_batch,
)

logger = logging.getLogger(__name__)

ARCHITECTURE: dict[str, Any] = {
    "img_size": IMAGE_SIZE,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 3,
}
MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the ViT was trained; every image is new."""

    steps: int = 6000
    batch_size: int = 128
    lr: float = 2e-3
    """AdamW's peak, after a linear warm-up; then half a cosine to zero."""
    warmup_steps: int = 200
    first_strength: float = 0.1
    """How much the first images are distorted, compared to the last."""
    strength_steps: int = 3500
    """Then the distortion is full. Full from the start, 400 steps of 256 images taught nothing."""
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    clip_norm: float = 1.0


def pretrain(recipe: Recipe, seed: int) -> VisionTransformer:
    """Train with a softmax over all classes and return the ViT with its head."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the number of threads changes how sums are rounded
    generator = torch.Generator().manual_seed(seed)
    bank = build_bank(TRAIN_FONTS)
    num_classes = len(class_names())
    model = VisionTransformer(**ARCHITECTURE, num_classes=num_classes).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, recipe))
    seen = correct = 0
    for step in range(1, recipe.steps + 1):
        labels = torch.randint(num_classes, (recipe.batch_size,), generator=generator)
        grown = min(1.0, step / recipe.strength_steps)
        strength = recipe.first_strength + (1 - recipe.first_strength) * grown
        logits = model(_normalised(draw_batch(bank, labels, generator, strength)))
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()
        seen, correct = seen + len(labels), correct + int((logits.argmax(1) == labels).sum())
        if step % 100 == 0:
            logger.info("step %d: loss %.3f, accuracy %.3f", step, loss.item(), correct / seen)
            seen = correct = 0
    return model.eval()


def measure(model: VisionTransformer, seed: int) -> dict[str, float]:
    """Accuracy, over all classes, on images and on fonts that the training did not see."""
    known_fonts, new_fonts = build_bank(TRAIN_FONTS), build_bank(HELD_OUT_FONTS)
    everything = torch.arange(len(class_names())).repeat(40)
    glyphs = torch.arange(len(GLYPHS)).repeat(40)
    return {
        "new_images": _accuracy(model, known_fonts, everything, seed),
        "new_images_of_glyphs": _accuracy(model, known_fonts, glyphs, seed),
        "new_fonts": _accuracy(model, new_fonts, glyphs, seed),
        "new_fonts_undistorted": _accuracy(model, new_fonts, glyphs, seed, strength=0.0),
        "chance": 1 / len(class_names()),
    }


@torch.no_grad()
def _accuracy(
    model: VisionTransformer, bank: Bank, labels: Tensor, seed: int, strength: float = 1.0
) -> float:
    generator = torch.Generator().manual_seed(seed)
    correct = 0
    for chunk in labels.split(256):
        images = draw_batch(bank, chunk, generator, strength)
        correct += int((model(_normalised(images)).argmax(1) == chunk).sum())
    return correct / len(labels)


def _lr_factor(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def _normalised(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN[0]) / STD[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and recipe")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    recipe = Recipe(steps=arguments.steps)
    started = time.perf_counter()
    model = pretrain(recipe, arguments.seed)
    seconds = time.perf_counter() - started

    measured = measure(model, seed=arguments.seed + 1)
    model.reset_classifier(0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = arguments.out / "vit_quickstart.safetensors"
    save_file(model.state_dict(), weights)
    description = {
        **ARCHITECTURE,
        "mean": MEAN,
        "std": STD,
        "recipe": asdict(recipe) | {"optimizer": "adamw", "num_classes": len(class_names())},
        "accuracy": measured,
        "train_fonts": TRAIN_FONTS,
        "held_out_fonts": HELD_OUT_FONTS,
        "seed": arguments.seed,
        "seconds": round(seconds),
        "torch": torch.__version__,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    weights.with_suffix(".json").write_text(text, encoding="utf-8")
    logger.info("%s: %s, %.0f s", weights, measured, seconds)


if __name__ == "__main__":
    main()
