"""What a trial tells of itself: metrics after every epoch, and facts of the whole run."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints

EpochRow = Mapping[str, float]
"""Metrics of one epoch; has `epoch` (1, 2, ...) and, where it was validated, `val_accuracy`:
the score of the task's metric, whichever it is."""


@dataclass(frozen=True, kw_only=True)
class TrialFacts:
    """What is worth keeping of a run beside its metrics, under the names the storage has for it.

    The sentence beside a type is what the column of that name in `results.parquet` says of itself.
    A field with a default is not told by every run.
    """

    wall_seconds: Annotated[float, "in the worker, from setup to end"]
    setup_seconds: Annotated[float, "before the first step: model, images, features"]
    train_seconds: Annotated[float, "in training steps"]
    eval_seconds: Annotated[float, "in validation"]
    images_per_second: Annotated[float, "trained, over train_seconds"]
    num_tuned_parameters: Annotated[int, "trained, head included"]
    peak_memory_mib: Annotated[
        float, "of the device in this trial; on a CPU of its worker until then"
    ]
    readout: Annotated[str | None, "what the head reads"]
    host: Annotated[str, "name of the machine"]
    device: Annotated[str, "name of the GPU, or cpu"]
    cpu_threads: Annotated[int, "of the trial"]
    precision: Annotated[str, "fp32, or bf16 for the frozen network"]
    attention: Annotated[str, "fused or unfused kernel"]
    frozen_work: Annotated[str, "what was computed once per image, and why not more"]
    part_size: Annotated[int | None, "images per part of a step; null: the whole batch"]
    recompute: Annotated[bool, "blocks were computed twice to save memory"]
    val_effective_images: Annotated[
        float | None, "val images on which a top-1 accuracy would be as sure; null: num_val"
    ] = None
    val_images_by_class: Annotated[list[int] | None, "val images, by label"] = None
    val_correct_by_class: Annotated[
        list[int] | None, "of these the right ones after the last epoch of a complete trial"
    ] = None
    memory_share: Annotated[float | None, "of what the worker may keep; less after it ran out"] = (
        None
    )

    def stored(self) -> dict[str, Any]:
        """The facts as the storage keeps them: a field with a default is left out while it has
        that."""
        told = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {
            name: value
            for name, (value, default) in told.items()
            if default is MISSING or value != default
        }


@dataclass(frozen=True, kw_only=True)
class FinalFacts(TrialFacts):
    """Facts of a run of the last stage; those of the test split are told once it is tested."""

    test_accuracy: Annotated[float | None, "by the metric of the task, in [0, 1]"] = None
    num_test: Annotated[int | None, "test images"] = None
    test_majority: Annotated[int | None, "test images of the most frequent class"] = None
    test_baseline: Annotated[
        float | None, "of always answering one class; null: test_majority / num_test"
    ] = None
    test_effective_images: Annotated[
        float | None, "test images on which a top-1 accuracy would be as sure; null: num_test"
    ] = None
    test_images_by_class: Annotated[list[int] | None, "test images, by label"] = None
    test_correct_by_class: Annotated[list[int] | None, "of these the right ones"] = None
    test_confused: Annotated[
        list[list[int]] | None,
        "wrong ones as [label, answer, images], the most first; of more than 100 classes 20 pairs",
    ] = None


def described(facts: type[TrialFacts]) -> dict[str, tuple[Any, str]]:
    """Type and description of every fact, by name."""
    hints = get_type_hints(facts, include_extras=True)
    return {field.name: get_args(hints[field.name]) for field in fields(facts)}
