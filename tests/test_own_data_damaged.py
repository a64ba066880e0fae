"""A file of a stranger is read or refused in one line: whatever is changed in it, nothing else."""

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_known_sets import write_cifar, write_flowers, write_mnist
from test_own_data_held import as_table, pictures, save_splits
from test_own_data_tables import pets, write_csv, write_flat

from orchestrator.data.images import read
from orchestrator.data.suites import load_suite
from orchestrator.data.task import DataError

DAMAGES = 25


def saved(root: Path) -> tuple[Path, Path]:
    folder = save_splits(root / "pets", train=pictures(root, 8))
    return folder, folder / "train/data-00000-of-00001.arrow"


def shard(root: Path) -> tuple[Path, Path]:
    path = root / "pets.parquet"
    pq.write_table(as_table(pictures(root, 8), [0, 1] * 4), path, row_group_size=3)
    return path, path


def cifar(root: Path) -> tuple[Path, Path]:
    folder = write_cifar(root, "cifar10", per_file=4)
    return folder, folder / "data_batch_1"


def mnist(root: Path) -> tuple[Path, Path]:
    return root, write_mnist(root, "MNIST") / "train-labels-idx1-ubyte"


def flowers(root: Path) -> tuple[Path, Path]:
    folder = write_flowers(root)
    return folder, folder / "setid.mat"


def table(root: Path) -> tuple[Path, Path]:
    path = write_csv(root / "p/labels.csv", "image,label", pets(write_flat(root / "p", 8)))
    return path, path


@pytest.mark.parametrize("write", [saved, shard, cifar, mnist, flowers, table])
def test_whatever_is_changed_in_a_file_it_is_read_or_refused(
    tmp_path, monkeypatch, write: Callable[[Path], tuple[Path, Path]]
):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    suite, path = write(tmp_path)
    whole, chance, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(DAMAGES):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(damaged)) if chance.random() < 0.5 else chance.randrange(60)
            damaged[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            for task in load_suite(str(suite), strict=False).tasks:
                for example in (one for split in task.splits.values() for one in split.examples):
                    read(example)
        except DataError:
            refused += 1
    assert refused, "no damage was met"
