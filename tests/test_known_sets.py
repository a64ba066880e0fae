"""Data sets as torchvision leaves them: our images, labels and splits are torchvision's own."""

import gzip
import json
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from suites import write_pictures
from torchvision import datasets

from orchestrator.data.check import check_task
from orchestrator.data.idx_files import read_idx
from orchestrator.data.images import read
from orchestrator.data.pixels import decode
from orchestrator.data.split import SplitRule
from orchestrator.data.suites import load_suite
from orchestrator.data.task import DataError, Task

PIXELS = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))


def only(path: Path, **options) -> Task:
    (task,) = load_suite(str(path), strict=False, **options).tasks
    return task


def shown(task: Task, split: str) -> list[tuple[bytes, int]]:
    examples = task.splits[split].examples
    return [(decode(read(one), one.file).tobytes(), one.label) for one in examples]


def theirs(dataset) -> list[tuple[bytes, int]]:
    return [(image.convert("RGB").tobytes(), int(label)) for image, label in dataset]


def write_pickle(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))  # as Python 2 wrote them


def write_cifar(root: Path, name: str, per_file: int = 20) -> Path:
    is_ten = name == "cifar10"
    folder = root / ("cifar-10-batches-py" if is_ten else "cifar-100-python")
    train = [f"data_batch_{number}" for number in range(1, 6)] if is_ten else ["train"]
    classes = 10 if is_ten else 100
    for index, file in enumerate([*train, "test_batch" if is_ten else "test"]):
        pixels = PIXELS[index * per_file :][:per_file].transpose(0, 3, 1, 2).reshape(per_file, -1)
        labels = [row % 10 * classes // 10 for row in range(per_file)]
        content = {"data": pixels, "labels" if is_ten else "fine_labels": labels}
        content |= {} if is_ten else {"coarse_labels": [0] * per_file}
        write_pickle(folder / file, content)
    names = [f"class {label}" for label in range(classes)]
    if is_ten:
        write_pickle(folder / "batches.meta", {"label_names": names, "num_vis": 3072})
    else:
        write_pickle(folder / "meta", {"fine_label_names": names, "coarse_label_names": ["x"]})
    return folder


def unchecked(kind: type) -> type:
    """torchvision's reader without the checksums that only the real files have."""
    return type(
        kind.__name__,
        (kind,),
        {
            "train_list": [[file, None] for file, _ in kind.train_list],
            "test_list": [[file, None] for file, _ in kind.test_list],
            "meta": kind.meta | {"md5": None},
        },
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path, name):
    folder = write_cifar(tmp_path, name)
    kind = unchecked({"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name])
    task = only(folder)
    assert (task.name, task.official, task.split_rule) == (
        name,
        True,
        "seed 0, val 0.2 of each class of train",
    )
    assert task.class_names == tuple(kind(tmp_path).classes)
    assert shown(task, "test") == theirs(kind(tmp_path, train=False))
    assert sorted(shown(task, "trainval")) == sorted(theirs(kind(tmp_path, train=True)))
    assert only(tmp_path).splits == task.splits, "the folder that torchvision is given works, too"
    assert not [problem for problem in check_task(task) if problem.severity == "error"]


def test_the_binary_version_of_cifar_is_the_same_task(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    pickled = only(write_cifar(tmp_path, "cifar10"))
    for index in range(6):
        pixels = PIXELS[index * 20 :][:20].transpose(0, 3, 1, 2).reshape(20, -1)
        labels = (np.arange(20, dtype=np.uint8) % 10)[:, None]
        name = f"data_batch_{index + 1}.bin" if index < 5 else "test_batch.bin"
        (folder / name).write_bytes(np.hstack([labels, pixels]).tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"class {n}\n" for n in range(10)) + "\n")
    binary = only(folder)
    assert binary.class_names == pickled.class_names
    assert shown(binary, "test") == shown(pickled, "test")
    assert sorted(shown(binary, "trainval")) == sorted(shown(pickled, "trainval"))


class Harm:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_runs_nothing(tmp_path):
    folder = write_cifar(tmp_path, "cifar10")
    mark = tmp_path / "harmed"
    write_pickle(folder / "data_batch_3", {"data": Harm(mark), "labels": [0]})
    with pytest.raises(DataError, match=r"data_batch_3 cannot be read .* names posix.system"):
        only(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"data": PIXELS[:4].reshape(4, -1), "labels": [0, 1]}, "2 labels, but pixels of shape"),
        ({"data": PIXELS[:2].reshape(2, -1).astype("i4"), "labels": [0, 1]}, "no batch of CIFAR"),
        ({"labels": [0, 1]}, "no batch of CIFAR"),
        ([1, 2], "no batch of CIFAR"),
        ({"data": PIXELS[:1].reshape(1, -1), "labels": ["a"]}, "labels are not integers"),
    ],
)
def test_a_batch_that_is_none_is_refused(tmp_path, content, said):
    folder = write_cifar(tmp_path, "cifar10")
    write_pickle(folder / "data_batch_2", content)
    with pytest.raises(DataError, match=said):
        only(folder)


def write_idx(path: Path, array: np.ndarray) -> None:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str) -> Path:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for index, begin in enumerate(("train", "t10k")):
        write_idx(raw / f"{begin}-images-idx3-ubyte", PIXELS[index * 50 :][:50, :28, :28, 0])
        write_idx(raw / f"{begin}-labels-idx1-ubyte", np.arange(50) % 10)
    return raw


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist(tmp_path, name):
    raw = write_mnist(tmp_path, name)
    task, kind = only(tmp_path / name), getattr(datasets, name)
    assert (task.name, task.num_classes, task.read_as) == (name, 10, f"{name} (IDX files)")
    assert shown(task, "test") == theirs(kind(tmp_path, train=False))
    assert sorted(shown(task, "trainval")) == sorted(theirs(kind(tmp_path, train=True)))
    if name == "FashionMNIST":
        assert task.class_names == tuple(kind.classes)
    assert only(tmp_path).splits == task.splits
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="is no IDX file of bytes, or not all of it"):
        only(tmp_path / name)


def test_no_more_is_unpacked_than_the_sizes_say(tmp_path):
    begin = bytes([0, 0, 8, 1]) + struct.pack(">I", 10)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(begin + bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="is no IDX file of bytes, or not all of it"):
            read_idx(str(path))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_svhn(tmp_path, monkeypatch):
    for index, split in enumerate(("train", "test")):
        pixels = PIXELS[index * 40 :][:40].transpose(1, 2, 3, 0)
        labels = 1 + np.arange(40, dtype=np.uint8)[:, None] % 10
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": labels})
    unchecked_list = {k: [*v[:2], None] for k, v in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", unchecked_list)
    task = only(tmp_path)
    assert task.name == "svhn"
    assert shown(task, "test") == theirs(datasets.SVHN(tmp_path, split="test"))
    assert sorted(shown(task, "trainval")) == sorted(theirs(datasets.SVHN(tmp_path)))


def write_images(folder: Path, names: list[str]) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[index]).save(folder / name, "PNG")


def write_flowers(root: Path) -> Path:
    folder = root / "flowers-102"
    write_images(folder / "jpg", [f"image_{number:05}.jpg" for number in range(1, 31)])
    savemat(folder / "imagelabels.mat", {"labels": [[1 + index % 102 for index in range(30)]]})
    ids = {"trnid": [[*range(1, 11)]], "valid": [[*range(20, 10, -1)]], "tstid": [[*range(21, 31)]]}
    savemat(folder / "setid.mat", ids)
    return folder


def write_dtd(root: Path) -> Path:
    folder = root / "dtd/dtd"
    names = [f"{name}/{name}_{i:04}.jpg" for i in range(6) for name in ("banded", "dotted")]
    write_images(folder / "images", names)
    (folder / "labels").mkdir()
    for index, split in enumerate(("train", "val", "test")):
        lines = "".join(f"{name}\n" for name in names[index * 4 :][:4])
        (folder / f"labels/{split}1.txt").write_text(lines)
    return root / "dtd"


def write_pets(root: Path) -> Path:
    folder = root / "oxford-iiit-pet"
    names = [f"{name}_{i}" for i in range(6) for name in ("Abyssinian", "great_pyrenees")]
    write_images(folder / "images", [f"{name}.jpg" for name in names])
    (folder / "annotations").mkdir()
    lines = [f"{name} {1 + index % 2} {1 + index % 2} 1\n" for index, name in enumerate(names)]
    (folder / "annotations/trainval.txt").write_text("".join(lines[:8]))
    (folder / "annotations/test.txt").write_text("".join(lines[8:]))
    return folder


def write_food(root: Path) -> Path:
    folder = root / "food-101"
    names = [f"{name}/{i}" for i in range(6) for name in ("apple_pie", "waffles")]
    write_images(folder / "images", [f"{name}.jpg" for name in names])
    (folder / "meta").mkdir()
    for split, some in (("train", names[:8]), ("test", names[8:])):
        (folder / f"meta/{split}.txt").write_text("\n".join(some) + "\n")
        by_class = {one: [n for n in some if n.startswith(one)] for one in ("apple_pie", "waffles")}
        (folder / f"meta/{split}.json").write_text(json.dumps(by_class))
    return folder


def write_aircraft(root: Path) -> Path:
    folder = root / "fgvc-aircraft-2013b"
    names = [f"{number:07}" for number in range(12)]
    write_images(folder / "data/images", [f"{name}.jpg" for name in names])
    variants = ["707-320", "DHC-8 Series 100"]
    (folder / "data/variants.txt").write_text("\n".join(variants) + "\n")
    for index, split in enumerate(("train", "val", "test")):
        some = enumerate(names[index * 4 :][:4])
        lines = "".join(f"{name} {variants[label % 2]}\n" for label, name in some)
        (folder / f"data/images_variant_{split}.txt").write_text(lines)
    return folder


@pytest.mark.parametrize(
    ("write", "kind", "given"),
    [
        (write_flowers, datasets.Flowers102, ("train", "val", "test")),
        (write_dtd, datasets.DTD, ("train", "val", "test")),
        (write_pets, datasets.OxfordIIITPet, ("trainval", "test")),
        (write_food, datasets.Food101, ("train", "test")),
        (write_aircraft, datasets.FGVCAircraft, ("train", "val", "test")),
    ],
)
def test_images_in_folders_with_lists(
    tmp_path, monkeypatch, write: Callable[[Path], Path], kind, given
):
    folder = write(tmp_path)
    if kind is datasets.Flowers102:
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    task = only(folder)
    assert not task.errors()
    for split in given:
        ours = {"train": "train" if "val" in given else "trainval"}.get(split, split)
        expected = theirs(kind(tmp_path, split=split))
        assert sorted(shown(task, ours)) == sorted(expected)
        if ours != "trainval" and kind is not datasets.Food101:  # reads a file of another order
            assert shown(task, ours) == expected
    assert task.class_names == tuple(kind(tmp_path, split=given[0]).classes)
    assert (task.split_rule == "") == ("val" in given)
    assert task.split_source == "as published"
    assert only(tmp_path).splits == task.splits


def test_a_published_split_wins_over_one_that_is_asked_for(tmp_path):
    folder = write_flowers(tmp_path)
    asked = only(folder, rule=SplitRule(seed=9, fractions=(0.5, 0.25, 0.25)))
    assert asked.splits == only(folder).splits
    ten = write_cifar(tmp_path / "other", "cifar10")
    carved = only(ten, rule=SplitRule(seed=9, fractions=(0.5, 0.25, 0.25)))
    assert carved.splits["test"] == only(ten).splits["test"]
    assert carved.split_rule == "seed 9, val 0.333333 of each class of train"


def test_several_in_one_folder_are_several_tasks(tmp_path):
    write_cifar(tmp_path, "cifar10")
    write_flowers(tmp_path)
    write_pets(tmp_path)
    write_pictures(tmp_path / "eurosat", "2750/Forest", "2750/River")  # torchvision's EuroSAT
    tasks = {task.name: task for task in load_suite(str(tmp_path), strict=False).tasks}
    assert list(tasks) == ["cifar10", "flowers102", "oxford_pets", "eurosat"]
    assert tasks["eurosat"].split_rule == "seed 0, train/val/test 0.6/0.2/0.2 of each class"
    assert only(tmp_path / "eurosat").splits == tasks["eurosat"].splits
    assert [one.name for one in load_suite(str(tmp_path), tasks=["cifar10"]).tasks] == ["cifar10"]


def test_a_missing_image_is_named_with_the_line_of_its_list(tmp_path):
    folder = write_pets(tmp_path)
    (folder / "images/Abyssinian_1.jpg").unlink()
    found = [p for p in check_task(only(folder)) if p.severity == "error"]
    assert [(p.file.name, p.line) for p in found] == [("trainval.txt", 3)]


def test_a_pipe_is_no_batch(tmp_path):
    """It would be waited for."""
    folder = write_cifar(tmp_path, "cifar10")
    (folder / "test_batch").unlink()
    os.mkfifo(folder / "test_batch")
    with pytest.raises(DataError, match="holds no task"):
        load_suite(str(tmp_path))
