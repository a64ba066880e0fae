"""Which columns of a table name the images, their labels and splits: by the names that people use.

Where several could be meant, it is asked: a label out of the wrong column is a wrong number.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.data import formats
from orchestrator.data.reading import brief
from orchestrator.data.table import Table
from orchestrator.data.task import DataError

IMAGE = (
    "image", "images", "img", "file_name", "filename", "file", "path", "filepath", "image_path",
    "img_path", "image_name", "img_name", "image_file", "image_filename", "image_id", "picture",
    "photo",
)  # fmt: skip
LABEL = (
    "label", "labels", "class", "target", "category", "label_name", "class_name", "category_name",
    "label_id", "class_id", "category_id", "fine_label",
)  # fmt: skip
SPLIT = ("split", "set", "subset")


@dataclass(frozen=True, kw_only=True)
class Columns:
    image: str
    label: str
    names: str = ""
    """The column of the classes' names, where `label` has their numbers."""
    split: str = ""

    def __str__(self) -> str:
        used = (self.image, self.label, self.names, self.split)
        return ", ".join(name if name.isprintable() else brief(name) for name in used if name)


def find_columns(table: Table) -> Columns:
    """DataError names the columns that there are, and what would work."""
    image, labels = _images(table), _labels(table)
    if not image or not labels:
        missing = "images" if not image else "labels"
        wanted = IMAGE if not image else LABEL
        raise DataError(
            f"{table.path} has no column that is known to hold the {missing}: its columns are "
            f"{_shown(table.names)}; {_no_header(table)}rename one of them to {wanted[0]!r} "
            f"(known, too: {', '.join(wanted[1:7])})"
        )
    if len(image) > 1:
        raise _ambiguous(table, image, "images", "")
    splits = _known(table, SPLIT)
    if len(splits) > 1:
        raise _ambiguous(table, splits, "split", "")
    label, names = _label_and_names(table, labels)
    return Columns(image=image[0], label=label, names=names, split=splits[0] if splits else "")


def has_columns(table: Table) -> bool:
    """Whether a table has columns of images and of labels, be it several."""
    return bool(_images(table) and _labels(table))


def has_images(table: Table) -> bool:
    return bool(_images(table))


def _images(table: Table) -> list[str]:
    known, labels = _known(table, IMAGE), _known(table, LABEL)
    held = [name for name in table.names if name in table.images and name not in labels]
    return [name for name in held if name in known] or held or known


def _labels(table: Table) -> list[str]:
    """Under any other name, those whose classes the table names."""
    return _known(table, LABEL) or [name for name in table.names if name in table.class_names]


def _known(table: Table, names: Sequence[str]) -> list[str]:
    plain = {_plain(name) for name in names}
    return [name for name in table.names if _plain(name) in plain]


def _plain(name: str) -> str:
    return re.sub(r"[-_ .]", "", name.casefold())


def _label_and_names(table: Table, columns: Sequence[str]) -> tuple[str, str]:
    """One column, or one of numbers and one of names that say the same."""
    if len(columns) == 1:
        return columns[0], ""
    described = [name for name in columns if name in table.class_names]
    if len(described) == 1:
        return described[0], ""
    values = [list(map(str, table.values(name))) for name in columns]
    pairs = [len(set(zip(values[0], other, strict=True))) for other in values[1:]]
    if any(pairs[0] != len(set(one)) for one in values) or len(set(pairs)) > 1:
        raise _ambiguous(table, columns, "labels", " and they do not say the same")
    numbers = [name for name, one in zip(columns, values, strict=True) if _are_numbers(one)]
    words = [name for name in columns if name not in numbers]
    if not numbers or not words:
        return columns[0], ""
    return numbers[0], words[0]


def _are_numbers(values: Sequence[str]) -> bool:
    return all(re.fullmatch(r"[0-9]+(\.0+)?", value.strip()) for value in values)


def _ambiguous(table: Table, columns: Sequence[str], what: str, why: str) -> DataError:
    return DataError(
        f"{table.path}: the columns {_shown(columns)} are all names for the {what}{why}; keep one "
        f"under such a name and rename the others, such as {columns[1]!r} to 'other_{columns[1]}'"
    )


def _no_header(table: Table) -> str:
    if any(formats.is_read(name) for name in table.names):
        return "the first line names an image, so write `image,label` above it, or "
    return ""


def _shown(names: Sequence[str]) -> str:
    text = ", ".join(brief(name) for name in names[:12])
    return (text or "none") + (", ..." if len(names) > 12 else "")
