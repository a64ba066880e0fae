"""The forms that are known, in the order in which a path is tried."""

from pathlib import Path

from orchestrator.data.form import Form
from orchestrator.data.saved_dataset import SAVED
from orchestrator.data.table_files import METADATA_TABLE, SHARDS, TABLE, TABLES_BESIDE

FORMS: tuple[Form, ...] = (TABLE, SAVED, METADATA_TABLE, SHARDS)
WITHOUT_CLASS_FOLDERS = TABLES_BESIDE
"""What a folder is looked at for where its images lie in no class folders."""


def form_of(path: Path) -> Form | None:
    """The form in which this path is one task, if it is."""
    return next((form for form in FORMS if form.is_task(path)), None)
