"""The forms that are known, in the order in which a path is tried."""

import os
from pathlib import Path

from orchestrator.data import formats
from orchestrator.data.cifar import CIFAR
from orchestrator.data.flowers102 import FLOWERS102
from orchestrator.data.form import Form
from orchestrator.data.listed_sets import LISTED
from orchestrator.data.mnist import MNIST
from orchestrator.data.saved_dataset import SAVED
from orchestrator.data.svhn import SVHN
from orchestrator.data.table_files import METADATA_TABLE, SHARDS, TABLE, TABLES_BESIDE

FORMS: tuple[Form, ...] = (
    TABLE,
    SAVED,
    *CIFAR,
    FLOWERS102,
    MNIST,
    SVHN,
    *LISTED,
    METADATA_TABLE,
    SHARDS,
)
WITHOUT_CLASS_FOLDERS = TABLES_BESIDE
"""What a folder is looked at for where its images lie in no class folders."""
NAMING_IMAGES = frozenset(
    form.name for form in (TABLE, METADATA_TABLE, SHARDS, WITHOUT_CLASS_FOLDERS)
)
"""Forms whose images may lie elsewhere than they themselves."""


def form_of(path: Path) -> Form | None:
    """The form in which this path is one task, if it is."""
    if path.is_dir() and _holds_only_images(path):
        return None
    return next((form for form in FORMS if form.is_task(path)), None)


def _holds_only_images(folder: Path) -> bool:
    """As most folders of a class do, of which a data set may have thousands. One that may not be
    entered is passed by."""
    try:
        with os.scandir(folder) as entries:
            return all(
                formats.is_read(entry.name) and not entry.is_dir(follow_symlinks=False)
                for entry in entries
            )
    except PermissionError:
        return True
