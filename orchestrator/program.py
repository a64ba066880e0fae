"""The whole prompted network as one file that PyTorch loads without timm and without our code."""

from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.bundle import PromptedModel


class PixelsToLogits(nn.Module):
    """Normalisation, frozen ViT, prompts and head: (B, 3, S, S) uint8 to logits (B, C)."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: PromptedModel) -> None:
        super().__init__()
        backbone = model.bundle.backbone
        self.model = model.model
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model((pixels.float() / 255 - self.mean) / self.std)


def save_program(model: PromptedModel, path: Path) -> float:
    """Write the program for any batch size with `torch.export`; its largest error in a logit.

    ValueError if its logits differ from the model's by more than rounding.
    """
    network = PixelsToLogits(model).eval()
    size = model.bundle.backbone.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, size, size), generator=generator, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    # No gradients: what is trained is done learning, and autocast has no part in a program.
    with torch.no_grad():
        program = torch.export.export(network, (pixels[:2],), dynamic_shapes=({0: batch},))
    unfinished = path.with_name(f".{path.stem}.part.pt2")
    with unfinished.open("wb") as file:
        torch.export.save(program, file)
    with torch.no_grad():
        expected = network(pixels)
        found = torch.export.load(str(unfinished)).module()(pixels)
    error = (found - expected).abs().max().item()
    if error > 1e-4 * max(1.0, expected.abs().max().item()):
        unfinished.unlink()
        raise ValueError(f"{path}: the program's logits differ from the model's by {error:.2g}")
    unfinished.replace(path)
    return error
