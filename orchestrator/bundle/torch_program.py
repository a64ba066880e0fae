"""The whole prompted network as one file that needs neither timm nor our code.

`.pt2` is a program for `torch.export.load`, `.onnx` one for any ONNX runtime.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from orchestrator.bundle.prompted_model import PromptedModel
from orchestrator.support.extras import require
from orchestrator.support.whole_file import whole_path
from orchestrator.training.normalization import normalized, per_channel


class PixelsToLogits(nn.Module):
    """Normalisation, frozen ViT, prompts and head: (B, 3, S, S) uint8 to logits (B, C)."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: PromptedModel) -> None:
        super().__init__()
        backbone = model.bundle.backbone
        self.model = model.model
        self.register_buffer("mean", per_channel(backbone.mean))
        self.register_buffer("std", per_channel(backbone.std))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(normalized(pixels, self.mean, self.std))


def save_program(model: PromptedModel, path: Path) -> float:
    """Write the program for any batch size; its largest error in a logit.

    The suffix of `path` says which kind: .pt2 or .onnx. ValueError for another, where a package is
    missing, or if the program's logits differ from the model's by more than rounding.
    """
    if path.suffix not in _KINDS:
        raise ValueError(f"{path}: a program is written as {' or '.join(_KINDS)}")
    write_and_run = _KINDS[path.suffix]
    network = PixelsToLogits(model).eval()
    size = model.bundle.backbone.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, size, size), generator=generator, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    # No gradients: what is trained is done learning, and autocast has no part in a program.
    with torch.no_grad(), whole_path(path) as unfinished:
        program = torch.export.export(network, (pixels[:2],), dynamic_shapes=({0: batch},))
        expected = network(pixels)
        found = write_and_run(program, unfinished, pixels)
        error = (found - expected).abs().max().item()
        if error > 1e-4 * max(1.0, expected.abs().max().item()):
            raise ValueError(f"{path}: the program's logits differ from the model's by {error:.2g}")
    return error


def _torch_export(program: ExportedProgram, path: Path, pixels: Tensor) -> Tensor:
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:  # by name it must end in .pt2, which one half written does not
        return torch.export.load(file).module()(pixels)


def _onnx(program: ExportedProgram, path: Path, pixels: Tensor) -> Tensor:
    require("onnx", "onnx", "onnxscript", "onnxruntime", what="writing .onnx")
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            program,
            f=path,
            input_names=["pixels"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixels": pixels.numpy()})
    return torch.from_numpy(logits)


_KINDS: Mapping[str, Callable[[ExportedProgram, Path, Tensor], Tensor]] = {
    ".pt2": _torch_export,
    ".onnx": _onnx,
}
