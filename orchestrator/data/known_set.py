"""Data sets that everybody downloads, in the folders that torchvision leaves them in.

Their splits are the published ones. To add one: a file with a `known_set`, and its name in `FORMS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.class_names import say_unprintable
from orchestrator.data.completed import completed_task
from orchestrator.data.form import Form
from orchestrator.data.reading import Problems, read_bounded, task_root
from orchestrator.data.split import SplitRule
from orchestrator.data.task import DataError, Example, Held, Task


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the files of a data set say."""

    title: str
    class_names: Sequence[str]
    images: Mapping[str, Sequence[Example]]
    """Of each published split: train and test, val where there is one."""
    sources: Mapping[str, Path]
    """The file that says which images those are."""
    notes: Sequence[str] = ()


def known_set(
    name: str,
    home: Callable[[Path], Path | None],
    read: Callable[[Path], Published],
    task_name: Callable[[Path], str] | None = None,
) -> Form:
    """The form of a data set.

    `home` gives the folder that its files lie in, for that folder or the one that torchvision is
    given it in; None for another. `read` gets that folder, without links.
    """

    def task_of(path: Path, images: Path | None, rule: SplitRule) -> Task:
        folder = home(path)
        if folder is None:
            raise DataError(f"{path}: its files went away while it was read")
        root, _ = task_root(folder)
        published = read(root)
        called = named(path)
        found = Problems(called)
        say_unprintable(published.class_names, found, published.sources["train"])
        for split, examples in published.images.items():
            for example in examples:
                if not 0 <= example.label < len(published.class_names):
                    message = f"{example.file!r} has label {example.label}, which is no class"
                    found.add(split, published.sources[split], example.line, message)
        return completed_task(
            {split: tuple(examples) for split, examples in published.images.items()},
            found=found,
            root=root,
            sources=published.sources,
            class_names=published.class_names,
            layout=name,
            rule=rule,
            official=True,
            read_as=published.title,
            split_source="as published",
            notes=published.notes,
        )

    named = task_name or (lambda _: name)
    return Form(
        name=name, is_task=lambda path: home(path) is not None, read=task_of, task_name=named
    )


def home_with(*files: str, inside: str = "") -> Callable[[Path], Path | None]:
    """The folder that has all these files, or the folder `inside` it that has them."""

    def home(path: Path) -> Path | None:
        for folder in dict.fromkeys((path, path / inside)):
            if all(_is_there(folder / file) for file in files):
                return folder
        return None

    def _is_there(path: Path) -> bool:
        return path.is_file() or path.is_dir()  # to open a pipe is to wait for its writer

    return home


def held_rows(root: Path, file: str, form: str, labels: Sequence[int]) -> list[Example]:
    """The images in one file, in its order."""
    return [
        Example(str(root), f"{file}#{row:07}", label, 0, False, Held(form, file, "", row))
        for row, label in enumerate(labels)
    ]


def text_lines(root: Path, file: str) -> list[str]:
    """The lines of a list, without blanks at their ends; an empty one keeps its place."""
    path = root / file
    try:
        return [line.strip() for line in read_bounded(path, root).decode().splitlines()]
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} {error}") from error
