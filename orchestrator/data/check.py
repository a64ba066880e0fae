"""Everything wrong with a task, found before a sweep spends an hour on it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from orchestrator.data.cache import content_hashes
from orchestrator.data.images import ContentHashes, decode_fault, parallel_map
from orchestrator.data.reading import Problems, brief
from orchestrator.data.task import DataError, Example, Problem, Split, Task

__all__ = ["Problem", "check_task"]

SPLITS = ("train", "val", "trainval", "test")


def check_task(
    task: Task,
    *,
    splits: Sequence[str] = SPLITS,
    decode: bool = True,
    hashes: ContentHashes | None = None,
) -> list[Problem]:
    """What is wrong in the lists and, for these splits, in the files.

    Every file is read, and with `decode` decoded; what was sound is remembered by its content, so
    that a second check reads only what changed.
    """
    found = Problems(task.name)
    hashes = hashes or content_hashes()
    seen: dict[bytes, tuple[str, Example]] = {}
    checked: set[str] = set()
    for name in splits:
        if name in task.splits:
            split = task.splits[name]
            # trainval repeats train and val; what they share is checked once.
            examples = [example for example in split.examples if example.file not in checked]
            checked.update(example.file for example in examples)
            sound = _readable(split, examples, hashes, found)
            if decode:
                _check_decoding(split, sound, hashes, found)
            _check_copies(task, split, sound, seen, found)
    _check_classes(task, splits, found)
    wanted = {"", *splits}
    return [problem for problem in task.problems if problem.split in wanted] + [*found.all]


def _place(split: Split, example: Example) -> tuple[Path, int]:
    return (split.source, example.line) if example.line else (example.path, 0)


def _readable(
    split: Split, examples: Sequence[Example], hashes: ContentHashes, found: Problems
) -> list[tuple[Example, bytes]]:
    readable = []
    for example, content in zip(examples, hashes.of(examples), strict=True):
        if isinstance(content, DataError):
            found.add(split.name, *_place(split, example), str(content))
        else:
            readable.append((example, content))
    return readable


def _check_decoding(
    split: Split,
    examples: Sequence[tuple[Example, bytes]],
    hashes: ContentHashes,
    found: Problems,
) -> None:
    known = hashes.of_sound_images(content for _, content in examples)
    unknown = [(example, content) for example, content in examples if content not in known]
    faults = parallel_map(decode_fault, (example for example, _ in unknown))
    sound = []
    for (example, content), fault in zip(unknown, faults, strict=True):
        if fault:
            found.add(split.name, *_place(split, example), fault)
        else:
            sound.append(content)
    hashes.remember_sound_images(sound)


def _check_copies(
    task: Task,
    split: Split,
    examples: Sequence[tuple[Example, bytes]],
    seen: dict[bytes, tuple[str, Example]],
    found: Problems,
) -> None:
    """The same file under two names. Some official tasks are published with such pairs."""
    for example, content in examples:
        other, first = seen.setdefault(content, (split.name, example))
        if first is example:
            continue
        where = f"{brief(first.file)} of {other} (label {first.label})"
        message = f"{brief(example.file)}, label {example.label}, is the same image as {where}"
        is_leak = other != split.name and not task.official
        found.add(split.name, *_place(split, example), message, "error" if is_leak else "warning")


def _check_classes(task: Task, splits: Sequence[str], found: Problems) -> None:
    if task.num_classes < 2:
        found.add("", task.root, 0, f"{task.num_classes} class: there is nothing to learn")
    for name in splits:
        if name not in task.splits or name == "trainval":
            continue
        split = task.splits[name]
        counts = Counter(example.label for example in split.examples)
        if len(counts) == 1 and task.num_classes > 1:
            (label,) = counts
            severity = "error" if name == "train" else "warning"
            found.add(name, split.source, 0, f"all images have label {label}", severity)
        empty = [label for label in range(task.num_classes) if label not in counts]
        if name == "train" and empty and len(counts) > 1:
            names = ", ".join(f"{label} ({task.class_names[label]})" for label in empty[:5])
            more = ", ..." if len(empty) > 5 else ""
            message = f"{len(empty)} of {task.num_classes} classes have no image: {names}{more}"
            found.add(name, split.source, 0, message, "warning")
