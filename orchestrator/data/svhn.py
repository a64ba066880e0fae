"""SVHN, the cropped digits: `train_32x32.mat` and `test_32x32.mat` in one folder.

http://ufldl.stanford.edu/housenumbers/
"""

from pathlib import Path
from typing import Any

from orchestrator.data.known_set import Published, held_rows, home_with, known_set
from orchestrator.data.mat_files import read_mat
from orchestrator.data.task import DataError

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


def _labels(path: Path) -> list[int]:
    labels: Any = read_mat(path, "y")
    if labels.dtype.kind not in "iu" and not (labels == labels.round()).all():
        raise DataError(f"{path}: its labels are not integers")
    return [int(label) % 10 for label in labels.reshape(-1)]  # digit 0 has label 10 there


def _read(root: Path) -> Published:
    extra = "extra_32x32.mat" if (root / "extra_32x32.mat").is_file() else ""
    return Published(
        title="SVHN (cropped digits)",
        class_names=[str(digit) for digit in range(10)],
        images={
            split: held_rows(root, file, "svhn", _labels(root / file))
            for split, file in FILES.items()
        },
        sources={split: root / file for split, file in FILES.items()},
        notes=[f"not used: {extra}"] if extra else [],
    )


SVHN = known_set("svhn", home_with(*FILES.values()), _read)
