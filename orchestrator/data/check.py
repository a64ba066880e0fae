"""Everything wrong with a task, found before a sweep spends an hour on it."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from orchestrator.data.cache import content_hashes
from orchestrator.data.images import ContentHashes, is_white_or_fault, parallel_map
from orchestrator.data.reading import Problems, brief
from orchestrator.data.summary import class_counts
from orchestrator.data.task import DataError, Example, Problem, Split, Task
from orchestrator.support.phases import each

__all__ = ["Problem", "check_task"]

SPLITS = ("train", "val", "trainval", "test")
SMALL_SPLIT = 20
"""With fewer images one of them is more than 5 points of accuracy."""


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
    copies = _Copies(task, found)
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
            copies.check(split, sound)
    copies.sum_up()
    _check_classes(task, splits, found)
    _check_sizes(task, splits, found)
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
    looks = each(
        f"{found.task} {split.name}, decoding",
        parallel_map(is_white_or_fault, (example for example, _ in unknown)),
        len(unknown),
    )
    sound, white = [], []
    for (example, content), look in zip(unknown, looks, strict=True):
        if isinstance(look, DataError):
            found.add(split.name, *_place(split, example), str(look))
        elif look:
            white.append(example)
        else:
            sound.append(content)
    hashes.remember_sound_images(sound)
    if white:
        message = (
            f"{len(white):,} of {len(examples):,} images are white all over, such as "
            f"{brief(white[0].file)}; what is transparent is seen on white, and white shapes vanish"
        )
        found.add(split.name, split.source, 0, message, "warning")


class _Copies:
    """The same file under two names. Some official tasks are published with such pairs.

    Between splits it is a leak. Inside a split each line of a list is named; of folders, where a
    copy is no slip of a pen, the number.
    """

    def __init__(self, task: Task, found: Problems) -> None:
        self._task = task
        self._found = found
        self._seen: dict[bytes, tuple[str, Example]] = {}
        self._extra: Counter[str] = Counter()
        self._first: dict[bool, str] = {}
        self._num_contradicting = 0

    def check(self, split: Split, examples: Sequence[tuple[Example, bytes]]) -> None:
        for example, content in examples:
            other, first = self._seen.setdefault(content, (split.name, example))
            if first is example:
                continue
            where = f"{brief(first.file)} of {other} (label {first.label})"
            message = f"{brief(example.file)}, label {example.label}, is the same image as {where}"
            is_leak = other != split.name and not self._task.official
            is_in_list = self._task.layout != "image_folder" and example.held is None
            if is_leak or is_in_list:
                severity = "error" if is_leak else "warning"
                self._found.add(split.name, *_place(split, example), message, severity)
                continue
            contradicts = example.label != first.label
            pair = f"{brief(example.file)}, label {example.label}, and {brief(first.file)}"
            pair += f", label {first.label}"
            self._extra[split.name] += 1
            self._num_contradicting += contradicts
            self._first.setdefault(contradicts, pair)

    def sum_up(self) -> None:
        task = self._task
        if total := self._extra.total():
            where = ", ".join(f"{name} {number:,}" for name, number in self._extra.items())
            kept = "; our split keeps copies on one side" if task.split_rule else ""
            such = next(iter(self._first.values()))
            message = f"{_exact_copies(total)} ({where}; such as {such}){kept}"
            self._found.add("", task.root, 0, message, "warning")
        if self._num_contradicting:
            message = (
                f"{_exact_copies(self._num_contradicting)} with another label "
                f"(such as {self._first[True]}): one of the two is wrong"
            )
            self._found.add("", task.root, 0, message, "warning")


def _exact_copies(number: int) -> str:
    if number == 1:
        return "1 image is an exact copy of another"
    return f"{number:,} images are exact copies of others"


def _check_classes(task: Task, splits: Sequence[str], found: Problems) -> None:
    if task.num_classes < 2:
        names = f" ({brief(task.class_names[0])})" if task.class_names else ""
        message = f"{task.num_classes} class{names}: there is nothing to learn"
        found.add("", task.root, 0, message)
    counts = class_counts(task)
    for name in splits:
        if name not in counts or not task.splits[name].examples:
            continue
        source, here = task.splits[name].source, counts[name]
        labels = [label for label, number in enumerate(here) if number]
        if len(labels) == 1 and task.num_classes > 1:
            severity = "error" if name == "train" else "warning"
            found.add(name, source, 0, f"all images have label {labels[0]}", severity)
        elif name == "train" or not task.official:
            # What train lacks too is said there.
            needed = here if name == "train" else counts.get("train", here)
            _say_empty(task, name, needed, found)


def _say_empty(task: Task, name: str, needed: Sequence[int], found: Problems) -> None:
    here = class_counts(task)[name]
    in_train = name == "train"
    empty = [
        label for label, number in enumerate(here) if not number and (in_train or needed[label])
    ]
    if not empty:
        return
    shown = [
        f"{label} ({task.class_names[label]}{'' if in_train else f', {needed[label]:,} in train'})"
        for label in empty[:5]
    ]
    message = (
        f"{len(empty)} of {task.num_classes} classes have no image{'' if in_train else ' here'}: "
        f"{', '.join(shown)}{', ...' if len(empty) > 5 else ''}"
    )
    found.add(name, task.splits[name].source, 0, message, "warning")


def _check_sizes(task: Task, splits: Sequence[str], found: Problems) -> None:
    """Where one image more or less decides, a difference means nothing."""
    for name in ("val", "test"):
        if name not in splits or name not in task.splits or task.official:
            continue
        number = len(task.splits[name])
        if 0 < number < SMALL_SPLIT:
            message = (
                f"{name} has {number} image{'' if number == 1 else 's'}: one of them is "
                f"{100 / number:.0f} points of accuracy, the standard error at 50 % is "
                f"{50 / math.sqrt(number):.0f} points; such differences mean little"
            )
            found.add(name, task.splits[name].source, 0, message, "warning")
