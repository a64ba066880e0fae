"""Whether images to measure a bundle on are among those that it was trained or chosen on.

By content, since folders are copied and renamed. What was hashed when the sweep was planned is
remembered; of the test split, and of the images to measure on, only files of equal size are read.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.data.task import Example

ANY_SIZE, GONE = -1, -2

if TYPE_CHECKING:
    from orchestrator.bundle.bundle import Bundle
    from orchestrator.data.images import ContentHashes


@dataclass(frozen=True, kw_only=True)
class SeenImages:
    """How many of some images are, byte for byte, in the splits of the task of a bundle."""

    num_images: int
    trained_on: int = 0
    """In the images whose labels its weights were learnt from."""
    chosen_on: int = 0
    """In those on which its configuration was found to be the best; without the former."""
    test: int = 0
    """In the test split."""
    unknown: str = ""
    """Why it is not known, where the images of its task are not at hand."""

    @property
    def flatters(self) -> bool:
        """Whether an accuracy on these images is not one on new images."""
        return self.trained_on + self.chosen_on > 0

    def sentence(self, stage: str) -> str:
        """For people. `stage` is that of the bundle."""
        if self.unknown:
            return (
                "whether the bundle has seen these images is not known, since those it was made "
                f"with are not at hand ({self.unknown})"
            )
        if self.flatters:
            counts = {"trained on": self.trained_on, "chosen on": self.chosen_on}
            parts = [f"{number:,} that it was {how}" for how, number in counts.items() if number]
            return (
                f"among these {self.num_images:,} images are {' and '.join(parts)}: the accuracy "
                "is higher than it would be on new images"
            )
        told = "none of these files is a copy of one that the bundle was trained or chosen on"
        if self.test:
            told += f"; {self.test:,} of {self.num_images:,} are test images of its task"
        if self.test and stage == "search":
            told += ", on which no choice may rest: finalize tests the winner on them once"
        return told


def seen_images(
    bundle: "Bundle", images: Sequence[Path | Example], *, data: Path | None
) -> SeenImages:
    """Compare with the splits of the bundle's task, where it lies or at `data`.

    Raises nothing: what stands in the way of knowing is in `unknown`.
    """
    num_images = len(images)
    try:
        splits, hashes = _splits_of(bundle, data)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        return SeenImages(num_images=num_images, unknown=reason)
    here = [
        one
        if isinstance(one, Example)
        else Example(str(one.parent.absolute()), one.name, 0, 0, is_linked=True)
        for one in images
    ]
    contents = _contents(here, _sizes(one for split in splits for one in split), hashes)
    sizes = _sizes(here)
    before: set[bytes] = set()
    counts: list[int] = []
    for examples in splits:
        known = set(_contents(examples, sizes, hashes)) - before
        counts.append(sum(content in known for content in contents))
        before |= known
    trained_on, chosen_on, test = counts
    return SeenImages(num_images=num_images, trained_on=trained_on, chosen_on=chosen_on, test=test)


def _splits_of(
    bundle: "Bundle", data: Path | None
) -> tuple[tuple[Sequence[Example], ...], "ContentHashes"]:
    """The images that it was trained on, chosen on, and those of the test split.

    ValueError if they are not those any more.
    """
    from orchestrator.bundle.own_task import task_of  # needs pyarrow, which a bundle does not
    from orchestrator.data.cache import content_hashes, task_fingerprint
    from orchestrator.data.suites import QUICKSTART, quickstart_folder
    from orchestrator.training.backbone import image_transform

    if bundle.suite == QUICKSTART and not quickstart_folder().is_dir():
        raise ValueError("the quickstart was not drawn on this machine")
    task, hashes = task_of(bundle, data), content_hashes()
    found = task_fingerprint(task, image_transform(bundle.backbone), hashes=hashes)
    if found != bundle.data_fingerprint:
        raise ValueError(f"{task.root}: not the images that {bundle.task} was trained on")
    splits = {name: split.examples for name, split in task.splits.items()}
    train, val = splits.get("train", ()), splits.get("val", ())
    if bundle.stage == "final":
        train, val = (*train, *val, *splits.get("trainval", ())), ()
    return (train, val, splits.get("test", ())), hashes


def _sizes(examples: Iterable[Example]) -> set[int]:
    return {_size(one) for one in examples}


def _size(example: Example) -> int:
    """Of a file; ANY_SIZE of an image that a file holds, GONE where there is none."""
    if example.held is not None:
        return ANY_SIZE
    try:
        return os.stat(example.path).st_size  # noqa: PTH116
    except (OSError, ValueError):
        return GONE


def _contents(examples: Sequence[Example], sizes: set[int], hashes: "ContentHashes") -> list[bytes]:
    """The sha256 of those that may have one of these sizes and can be read."""
    wanted = sizes - {GONE}
    alike = [one for one in examples if ANY_SIZE in wanted or _size(one) in wanted | {ANY_SIZE}]
    return [content for content in hashes.of(alike) if isinstance(content, bytes)]
