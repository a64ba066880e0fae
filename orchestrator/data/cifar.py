"""CIFAR-10 and CIFAR-100 as torchvision or their authors' archives leave them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.cifar_batches import binary_batch, pickled_batch
from orchestrator.data.form import Form
from orchestrator.data.known_set import Published, held_rows, home_with, known_set, text_lines
from orchestrator.data.plain_pickle import read_plain_pickle
from orchestrator.data.task import DataError

TEN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


@dataclass(frozen=True, kw_only=True)
class _Version:
    name: str
    title: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    """The file of the classes' names."""
    names: str = ""
    """Where they stand in a pickle."""
    form: str
    """What opens a batch, in `held.HOLDERS`."""

    def labels(self, path: Path) -> list[int]:
        if self.names:
            return pickled_batch(str(path))[1]
        return binary_batch(str(path), 2 if self.name == "cifar100" else 1)[1]

    def class_names(self, root: Path) -> list[str]:
        if not self.names:
            return [line for line in text_lines(root, self.meta) if line]
        meta = read_plain_pickle(root / self.meta)
        names = meta.get(self.names) if isinstance(meta, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{root / self.meta} has no {self.names}")
        return names


def _form(version: _Version) -> Form:
    def read(root: Path) -> Published:
        def rows(files: Sequence[str]) -> list:
            return [
                example
                for file in files
                for example in held_rows(root, file, version.form, version.labels(root / file))
            ]

        is_fine = version.name == "cifar100"
        return Published(
            title=version.title,
            class_names=version.class_names(root),
            images={"train": rows(version.train), "test": rows([version.test])},
            sources={"train": root / version.train[0], "test": root / version.test},
            notes=["labels: the 100 fine ones, not the 20 coarse ones"] if is_fine else [],
        )

    home = home_with(*version.train, version.test, version.meta)
    return known_set(version.folder, home, read, _called(version.name))


def _called(name: str) -> Callable[[Path], str]:
    return lambda _: name


CIFAR = tuple(
    map(
        _form,
        (
            _Version(
                name="cifar10",
                title="CIFAR-10 (pickled batches)",
                folder="cifar-10-batches-py",
                train=TEN_BATCHES,
                test="test_batch",
                meta="batches.meta",
                names="label_names",
                form="cifar_pickle",
            ),
            _Version(
                name="cifar100",
                title="CIFAR-100 (pickled batches)",
                folder="cifar-100-python",
                train=("train",),
                test="test",
                meta="meta",
                names="fine_label_names",
                form="cifar_pickle",
            ),
            _Version(
                name="cifar10",
                title="CIFAR-10 (binary version)",
                folder="cifar-10-batches-bin",
                train=tuple(f"{name}.bin" for name in TEN_BATCHES),
                test="test_batch.bin",
                meta="batches.meta.txt",
                form="cifar10_binary",
            ),
            _Version(
                name="cifar100",
                title="CIFAR-100 (binary version)",
                folder="cifar-100-binary",
                train=("train.bin",),
                test="test.bin",
                meta="fine_label_names.txt",
                form="cifar100_binary",
            ),
        ),
    )
)
