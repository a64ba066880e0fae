"""A loaded bundle at work: predictions of image files, and how good they are."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from methods import TunedViT
from orchestrator.bundle.evaluation import Evaluation, Tally
from orchestrator.bundle.prediction import Candidate, Prediction
from orchestrator.bundle.seen import SeenImages, seen_images
from orchestrator.data.image_paths import Unreadable
from orchestrator.data.images import MAX_FILE_BYTES, parallel_map, read
from orchestrator.data.labelled_images import LabelledImages, labelled_images
from orchestrator.data.pixels import decode
from orchestrator.data.task import Example
from orchestrator.data.transform import ImageTransform
from orchestrator.support.phases import each, phase
from orchestrator.support.regular_file import read_regular
from orchestrator.training.backbone import image_transform
from orchestrator.training.normalization import normalized_for

if TYPE_CHECKING:
    from orchestrator.bundle.bundle import Bundle

MOST_TOKENS = 64 * 1024
"""That predictions are computed of at once: 64 images of 512 pixels, in patches of 16."""


class PromptedModel:
    """A loaded bundle: takes images, gives classes."""

    def __init__(self, bundle: "Bundle", model: TunedViT, device: str) -> None:
        self.bundle = bundle
        self.model = model.eval()
        self._device = device
        self._transform: ImageTransform = image_transform(bundle.backbone)

    def logits(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, num_classes) for PIL images of any size."""
        return self._logits([self._transform.apply(image) for image in images])

    def predict(
        self, paths: str | Path | Iterable[str | Path], *, batch_size: int = 64, top: int = 1
    ) -> list[Prediction]:
        """One prediction per image file, in order. ValueError names a file that is no image.

        Each holds the `top` most probable classes. Where one bad file must not cost the others,
        `predict_each` gives its error in its place.
        """
        if isinstance(paths, str | Path):
            paths = [paths]
        found: list[Prediction] = []
        for one in self.predict_each(paths, batch_size=batch_size, top=top):
            if isinstance(one, Unreadable):
                raise ValueError(one.error)
            found.append(one)
        return found

    def predict_each(
        self,
        paths: Iterable[str | Path | Example | Unreadable],
        *,
        batch_size: int = 64,
        top: int = 1,
    ) -> Iterator[Prediction | Unreadable]:
        """One prediction, or the reason why there is none, per image file, in order.

        Files are read and decoded in threads, a bounded number ahead of the network. What is known
        to be unreadable stays so.
        """
        for name, number in (("batch_size", batch_size), ("top", top)):
            if number < 1:
                raise ValueError(f"{name} is {number}; it must be at least 1")
        rows = parallel_map(self._read, paths)
        while batch := list(islice(rows, batch_size)):
            good = [row for row in batch if not isinstance(row, Unreadable)]
            predictions = iter(self._predictions(good, top))
            for row in batch:
                yield row if isinstance(row, Unreadable) else next(predictions)

    def evaluate(
        self, where: str | Path, *, data: str | Path | None = None, batch_size: int = 64
    ) -> Evaluation:
        """How good it is on the images of a folder of class folders, or of a list.

        `data` is where the images of its task are now, to tell whether it has seen these.
        ValueError says which folders are no classes of it.
        """
        labelled = labelled_images(Path(where), self.bundle.class_names)
        seen = self.seen(labelled, data=data)
        tally = Tally()
        found = self.predict_each(labelled.images, batch_size=batch_size)
        rows = each("classifying images", found, len(labelled.images))
        for label, one in zip(labelled.labels, rows, strict=True):
            tally.add(label, one)
        return self.evaluation(tally, labelled, seen)

    def seen(self, labelled: LabelledImages, *, data: str | Path | None = None) -> SeenImages:
        """Which of these images it was trained or chosen on."""
        files = [one for one in labelled.images if not isinstance(one, Unreadable)]
        with phase("comparing with the images of its task"):
            return seen_images(self.bundle, files, data=None if data is None else Path(data))

    def evaluation(self, tally: Tally, labelled: LabelledImages, seen: SeenImages) -> Evaluation:
        """What was counted on these images."""
        return tally.evaluation(
            self.bundle.class_names,
            metric=self.bundle.metric,
            stage=self.bundle.stage,
            notes=labelled.notes,
            seen=seen,
        )

    def classify(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[Prediction]:
        """One prediction per image, under its name."""
        pixels = (self._transform.apply(image) for image in images)
        return self._predictions(list(zip(names, pixels, strict=True)), 1)

    def _read(self, path: str | Path | Example | Unreadable) -> tuple[str, np.ndarray] | Unreadable:
        if isinstance(path, Unreadable):
            return path
        name = str(path.path if isinstance(path, Example) else path)
        try:
            if isinstance(path, Example):
                content = read(path)
            else:
                content = read_regular(Path(path), most_bytes=MAX_FILE_BYTES)
            return name, self._transform.apply(decode(content, name))
        except (ValueError, OSError) as error:
            reason = f"{name!r}: {error.strerror}" if isinstance(error, OSError) else str(error)
            return Unreadable(image=name, error=reason)

    def _predictions(
        self, named_pixels: Sequence[tuple[str, np.ndarray]], top: int
    ) -> list[Prediction]:
        if not named_pixels:
            return []
        logits = self._logits([pixels for _, pixels in named_pixels])
        ranked = self.bundle.objective.ranked(logits, top)
        named = zip(named_pixels, ranked, strict=True)
        return [self._prediction(name, best) for (name, _), best in named]

    def _prediction(self, image: str, ranked: Sequence[tuple[int, float]]) -> Prediction:
        names = self.bundle.class_names
        found = tuple(
            Candidate(label=label, class_name=names[label], probability=probability)
            for label, probability in ranked
        )
        return Prediction(
            image=image,
            label=found[0].label,
            class_name=found[0].class_name,
            probability=found[0].probability,
            top=found,
        )

    def _logits(self, decoded: Sequence[np.ndarray]) -> Tensor:
        """The logits of decoded images, a few at once where images are large."""
        patches = math.prod(self.model.family.grid(self.model.vit))
        part = max(1, MOST_TOKENS // (patches + self.model.tuning.num_prompts))
        starts = range(0, len(decoded), part)
        return torch.cat([self._logits_of(decoded[start : start + part]) for start in starts])

    def _logits_of(self, decoded: Sequence[np.ndarray]) -> Tensor:
        pixels = torch.stack([torch.from_numpy(one.copy()) for one in decoded])
        images = normalized_for(self.bundle.backbone, pixels)
        with torch.no_grad():
            return self.model(images.to(self._device)).float().cpu()
