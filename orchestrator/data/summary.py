"""What was understood of a task: splits, classes, balance; in words and for programs."""

from collections.abc import Iterator, Sequence

from orchestrator.data.reading import brief
from orchestrator.data.task import Task

SPLITS = ("train", "val", "test")
SHOWN_CLASSES = 10


def class_counts(task: Task) -> dict[str, list[int]]:
    """Images of each label in train, val and test."""
    counts = {}
    for name in SPLITS:
        if name in task.splits:
            here = [0] * task.num_classes
            for example in task.splits[name].examples:
                if 0 <= example.label < task.num_classes:  # what is not is an error of the list
                    here[example.label] += 1
            counts[name] = here
    return counts


def describe(task: Task) -> Iterator[str]:
    """A few lines: what was read, the splits and who made them, classes with counts, notes."""
    counts = class_counts(task)
    sizes = ", ".join(f"{name} {sum(here):,}" for name, here in counts.items()) or "none"
    given = task.split_source or "as they lie in the folder"
    made = f"ours ({task.split_rule})" if task.split_rule else given
    if task.read_as:
        yield f"read as: {task.read_as}"
    yield f"splits {made}: {sizes}"
    if counts:
        yield f"classes ({'/'.join(counts)}): {_classes(task, counts)}"
    largest = [
        f"{100 * max(here) / sum(here):.1f} % of {name} "
        f"({shown(task.class_names[here.index(max(here))])})"
        for name, here in counts.items()
        if sum(here)
    ]
    if largest:
        yield f"largest class: {', '.join(largest)}"
    yield from task.notes


def facts(task: Task) -> dict[str, object]:
    """The same for programs."""
    counts = class_counts(task)
    return {
        "task": task.name,
        "root": str(task.root),
        "layout": task.layout,
        "read_as": task.read_as,
        "split_rule": task.split_rule,
        "split_source": task.split_source,
        "images": {name: sum(here) for name, here in counts.items()},
        "classes": [
            {"name": name, **{split: here[label] for split, here in counts.items()}}
            for label, name in enumerate(task.class_names)
        ],
        "largest_class_share": {
            name: max(here) / sum(here) for name, here in counts.items() if sum(here)
        },
        "notes": list(task.notes),
    }


def shown(name: str) -> str:
    """A user's name as it may be printed."""
    return name if name.isprintable() and len(name) <= 60 else brief(name)


def _classes(task: Task, counts: dict[str, list[int]]) -> str:
    def one(label: int) -> str:
        numbers = "/".join(f"{here[label]:,}" for here in counts.values())
        return f"{shown(task.class_names[label])} {numbers}"

    labels: Sequence[int] = range(task.num_classes)
    if len(labels) <= SHOWN_CLASSES:
        return ", ".join(map(one, labels))
    totals = [sum(here[label] for here in counts.values()) for label in labels]
    least, most = totals.index(min(totals)), totals.index(max(totals))
    first = ", ".join(map(one, labels[: SHOWN_CLASSES - 2]))
    return f"{first}, ... {len(labels):,} in all; fewest {one(least)}; most {one(most)}"
