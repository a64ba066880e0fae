"""Images that lie many in one file, as Hugging Face keeps them: nothing is unpacked or lost."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from suites import write_pictures

from orchestrator.data.cache import ImageCache, open_search_splits, task_fingerprint
from orchestrator.data.check import check_task
from orchestrator.data.images import read
from orchestrator.data.split import SplitRule
from orchestrator.data.suites import load_suite
from orchestrator.data.task import DataError, Task
from orchestrator.data.transform import ImageTransform

NAMES = ["cat", "dog"]
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": NAMES, "_type": "ClassLabel"},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))


def only(path: Path, **options) -> Task:
    (task,) = load_suite(str(path), strict=False, **options).tasks
    return task


def pictures(root: Path, images: int) -> list[bytes]:
    write_pictures(root, "files", images=images)
    return [(root / f"files/{number}.png").read_bytes() for number in range(images)]


def as_table(images: list[bytes], labels: list[int], described: bool = True) -> pa.Table:
    """As `datasets` 4 writes it: an image is a struct, the classes stand in the schema."""
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": f"{index}.png"} for index, data in enumerate(images)]
    table = pa.table({"image": pa.array(rows, struct), "label": pa.array(labels, pa.int64())})
    info = {"info": {"features": FEATURES}}
    return table.replace_schema_metadata({"huggingface": json.dumps(info)} if described else {})


def save(folder: Path, images: list[bytes], *, shards: int = 1, described: bool = True) -> None:
    """One data set as `save_to_disk` leaves it: Arrow streams, a state and an info."""
    folder.mkdir(parents=True)
    table = as_table(images, [index % 2 for index in range(len(images))], described)
    files = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
    size = -(-len(images) // shards)
    for shard, name in enumerate(files):
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table.slice(shard * size, size), max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in files], "_split": folder.name}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))


def save_splits(root: Path, **splits: list[bytes]) -> Path:
    for name, images in splits.items():
        save(root / name, images)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return root


def test_a_saved_data_set_keeps_its_splits_classes_and_bytes(tmp_path):
    images = pictures(tmp_path, 20)
    root = save_splits(tmp_path / "pets", train=images[:14], test=images[14:])
    task = only(root)
    assert task.read_as.startswith("Hugging Face data set saved to disk with columns image, label")
    assert (task.class_names, task.split_source) == (("cat", "dog"), "as the files are named")
    assert task.split_rule == "seed 0, val 0.2 of each class of train"
    assert [read(example) for example in task.splits["test"].examples] == images[14:]
    assert [example.label for example in task.splits["test"].examples] == [0, 1, 0, 1, 0, 1]
    assert not [problem for problem in check_task(task) if problem.severity == "error"]


def test_one_saved_set_is_split_by_the_rule(tmp_path):
    images = pictures(tmp_path, 20)
    save(tmp_path / "pets", images, shards=3, described=False)
    task = only(tmp_path / "pets", rule=SplitRule(seed=3, fractions=(0.5, 0.2, 0.3)))
    assert {name: len(task.splits[name]) for name in ("train", "val", "test")} == {
        "train": 10,
        "val": 4,
        "test": 6,
    }
    assert task.class_names == ("cat", "dog"), "out of dataset_info.json"
    found = {read(example) for split in task.splits.values() for example in split.examples}
    assert found == set(images)


def test_shards_as_the_hub_has_them(tmp_path):
    images = pictures(tmp_path, 24)
    (tmp_path / "pets/data").mkdir(parents=True)
    labels = [index % 2 for index in range(24)]
    for name, first, last in (
        ("train-00000-of-00002", 0, 8),
        ("train-00001-of-00002", 8, 16),
        ("validation-00000-of-00001", 16, 20),
        ("test-00000-of-00001", 20, 24),
    ):
        table = as_table(images[first:last], labels[first:last])
        pq.write_table(table, tmp_path / f"pets/data/{name}.parquet", row_group_size=3)
    task = only(tmp_path / "pets")
    assert (task.name, task.class_names, task.split_rule) == ("pets", ("cat", "dog"), "")
    read_back = {
        name: [read(example) for example in task.splits[name].examples]
        for name in ("train", "val", "test")
    }
    assert read_back == {"train": images[:16], "val": images[16:20], "test": images[20:]}


def test_one_parquet_file_with_images_needs_no_names_of_classes(tmp_path):
    images = pictures(tmp_path, 20)
    table = pa.table({"img": images, "class": [NAMES[index % 2] for index in range(20)]})
    pq.write_table(table, tmp_path / "pets.parquet")
    task = only(tmp_path / "pets.parquet")
    assert (task.name, task.class_names) == ("pets", ("cat", "dog"))
    assert task.read_as == "Parquet with columns img, class (pets.parquet)"


def test_held_images_are_decoded_as_files_are(tmp_path):
    """Fingerprints are of contents, so the same images in another form are the same task."""
    images = pictures(tmp_path, 20)
    files = [f"files/{number}.png" for number in range(20)]
    labels = [number % 2 for number in range(20)]
    splits = ["train"] * 12 + ["val"] * 8
    described = pa.table({"image": files, "label": labels, "split": splits})
    pq.write_table(described, tmp_path / "paths.parquet")
    held = as_table(images, labels).append_column("split", pa.array(splits))
    pq.write_table(held, tmp_path / "held.parquet")
    of_paths, of_held = only(tmp_path / "paths.parquet"), only(tmp_path / "held.parquet")
    transform = ImageTransform(image_size=8, resize="squash", interpolation="bicubic")
    assert task_fingerprint(of_paths, transform) == task_fingerprint(of_held, transform)
    decoded = [
        open_search_splits(task, transform, ImageCache(tmp_path / name))
        for name, task in (("a", of_paths), ("b", of_held))
    ]
    for split in ("train", "val"):
        assert (decoded[0][split].images == decoded[1][split].images).all()
        assert list(decoded[0][split].labels) == list(decoded[1][split].labels)


def test_copies_of_test_images_are_left_out_of_train_and_counted(tmp_path):
    images = pictures(tmp_path, 20)
    task = only(save_splits(tmp_path / "pets", train=images[:14], test=[*images[14:], images[0]]))
    searched = {read(e) for name in ("train", "val") for e in task.splits[name].examples}
    assert searched == set(images[1:14])
    (said,) = [problem.message for problem in task.problems]
    assert said == "left out of train: 1 image, exact copies of images of val and test"
    assert not [problem for problem in check_task(task) if problem.severity == "error"]


def test_a_broken_image_is_named_with_its_row(tmp_path):
    images = pictures(tmp_path, 20)
    images[7] = b"no image"
    pq.write_table(as_table(images, [0, 1] * 10), tmp_path / "pets.parquet")
    found = "\n".join(map(str, check_task(only(tmp_path / "pets.parquet"))))
    assert "pets.parquet#0000007" in found and "is not an image in one of" in found


def test_an_image_that_lies_elsewhere_is_refused(tmp_path):
    table = as_table(pictures(tmp_path, 20), [0, 1] * 10)
    rows = table.column("image").to_pylist()
    rows[3] = {"bytes": None, "path": "/etc/passwd"}
    column = pa.array(rows, table.schema.field("image").type)
    pq.write_table(table.set_column(0, "image", column), tmp_path / "pets.parquet")
    found = "\n".join(map(str, check_task(only(tmp_path / "pets.parquet"))))
    assert "holds no image but names the file '/etc/passwd'" in found


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"_data_files": [{"filename": "../../x.arrow"}]}, "names no files of data"),
        ({"_data_files": []}, "names no files of data"),
        ({"_data_files": [{"filename": "a"}], "_indices_data_files": [{}]}, "flatten_indices"),
    ],
)
def test_what_a_saved_set_says_of_its_files_is_not_obeyed_blindly(tmp_path, state, said):
    root = save_splits(tmp_path / "pets", train=pictures(tmp_path, 4))
    (root / "train/state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=said):
        only(root)


@pytest.mark.parametrize("keep", [0, 10, 200, 700])
@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_a_file_that_ends_early_is_said(tmp_path, keep, form):
    images = pictures(tmp_path, 20)
    root = save_splits(tmp_path / "pets", train=images)
    path = root / "train/data-00000-of-00001.arrow"
    if form == "parquet":
        root = path = tmp_path / "pets.parquet"
        pq.write_table(as_table(images, [0, 1] * 10), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cannot be read|no column"):
        only(root)


@pytest.mark.parametrize(
    "name, said", [("pipe.arrow", "is not a file"), ("gone.arrow", "is not there"),
                   ("state.json", "is no table")]
)  # fmt: skip
def test_a_saved_set_whose_data_is_no_table_is_refused_at_once(name, said, tmp_path):
    """A pipe without a writer would be waited for, deaf to Ctrl-C."""
    save(tmp_path / "pets", pictures(tmp_path, 4))
    os.mkfifo(tmp_path / "pets/pipe.arrow")
    state = {"_data_files": [{"filename": name}]}
    (tmp_path / "pets/state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=said):
        only(tmp_path / "pets")
