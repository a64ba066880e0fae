"""A table of images and labels is one task: what is said of it, and what is refused."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plans import make_plan
from suites import write_pictures

from orchestrator.data.check import check_task
from orchestrator.data.split import SplitRule
from orchestrator.data.suites import load_suite
from orchestrator.data.task import DataError, Task
from orchestrator.plan.places import moved_suite
from orchestrator.report.published import is_official


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ORCHESTRATOR_DATA", raising=False)


def write_flat(root: Path, images: int = 20) -> list[str]:
    """A folder of images that no folder labels."""
    write_pictures(root, "images", images=images)
    return [f"images/{number}.png" for number in range(images)]


def write_csv(
    path: Path, header: str, rows: Sequence[tuple[object, ...]], separator: str = ","
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def only(path: Path, **options) -> Task:
    (task,) = load_suite(str(path), strict=False, **options).tasks
    return task


def errors(task: Task) -> str:
    return "\n".join(str(problem) for problem in task.errors())


def labels(task: Task, split: str) -> dict[str, str]:
    names = task.class_names
    return {example.file: names[example.label] for example in task.splits[split].examples}


PETS = ["cat", "dog"]


def pets(files: list[str]) -> list[tuple]:
    return [(file, PETS[number % 2]) for number, file in enumerate(files)]


@pytest.mark.parametrize(
    "header", ["image,label", "File_Name,class", "filepath,category", "img,target"]
)
def test_columns_are_found_by_the_names_that_people_use(tmp_path, header):
    files = write_flat(tmp_path / "photos")
    table = write_csv(tmp_path / "photos/labels.csv", header, pets(files))
    task = only(table, rule=SplitRule(seed=1, fractions=(0.7, 0.1, 0.2)))
    assert (task.name, task.class_names) == ("photos", ("cat", "dog"))
    assert task.read_as == f"CSV with columns {', '.join(header.split(','))} (labels.csv)"
    assert task.split_rule == "seed 1, train/val/test 0.7/0.1/0.2 of each class"
    sizes = {name: Counter(labels(task, name).values()) for name in ("train", "val", "test")}
    assert sizes["train"] == {"cat": 7, "dog": 7}
    assert sizes["test"] == {"cat": 2, "dog": 2}
    assert labels(task, "train").items() <= {file: label for file, label in pets(files)}.items()
    assert check_task(task) and not task.errors(), "small splits are warned of, nothing is wrong"


def test_the_folder_of_a_table_is_the_same_task_as_the_table(tmp_path):
    files = write_flat(tmp_path / "photos")
    table = write_csv(tmp_path / "photos/labels.csv", "image,label", pets(files))
    of_folder, of_table = only(tmp_path / "photos"), only(table)
    assert of_folder.splits == of_table.splits
    assert of_folder.read_as == of_table.read_as


def test_class_folders_win_over_a_table_beside_them(tmp_path):
    write_pictures(tmp_path / "photos", "cat", "dog")
    write_csv(
        tmp_path / "photos/labels.csv", "image,label", [("cat/0.png", "x"), ("dog/0.png", "y")]
    )
    task = only(tmp_path / "photos")
    assert (task.layout, task.class_names) == ("image_folder", ("cat", "dog"))
    assert "1 .csv" in "".join(task.notes)
    assert only(tmp_path / "photos/labels.csv").class_names == ("x", "y")


def test_a_split_that_the_table_gives_wins_and_is_said(tmp_path):
    files = write_flat(tmp_path / "photos")
    splits = ["train"] * 12 + ["valid"] * 4 + ["Test"] * 4
    rows = [(*row, split) for row, split in zip(pets(files), splits, strict=True)]
    table = write_csv(tmp_path / "photos/labels.csv", "image,label,split", rows)
    task = only(table, rule=SplitRule(seed=7, fractions=(0.5, 0.25, 0.25)))
    assert (task.split_rule, task.split_source) == ("", "as column 'split' says")
    assert list(labels(task, "test")) == files[16:]
    assert list(labels(task, "val")) == files[12:16]


def test_tables_named_after_splits_are_one_task(tmp_path):
    files = write_flat(tmp_path / "photos")
    for name, some in (("train", files[:12]), ("val", files[12:16]), ("test", files[16:])):
        write_csv(tmp_path / f"photos/{name}.csv", "image,label", pets(some))
    task = only(tmp_path / "photos")
    assert task.split_source == "as the files are named"
    assert [len(task.splits[name]) for name in ("train", "val", "test")] == [12, 4, 4]
    (warning,) = [p.message for p in only(tmp_path / "photos/train.csv").problems]
    assert warning == "beside train.csv lie test.csv, val.csv: for their splits name the folder"


def test_folders_named_after_splits_in_the_paths_are_the_splits(tmp_path):
    write_pictures(tmp_path / "photos", "train", "test")
    files = [f"{split}/{number}.png" for split in ("train", "test") for number in range(10)]
    task = only(write_csv(tmp_path / "photos/labels.csv", "image,label", pets(files)))
    assert task.split_source == "as the folders in the paths are named"
    assert set(labels(task, "test")) == set(files[10:])
    assert task.split_rule == "seed 0, val 0.2 of each class of train"


def test_hugging_face_metadata_labels_the_images_beside_it(tmp_path):
    for split, number in (("train", 10), ("test", 6)):
        write_pictures(tmp_path / "photos", split, images=number)
        lines = [
            json.dumps({"file_name": f"{index}.png", "label": index % 2, "text": "a photo"})
            for index in range(number)
        ]
        (tmp_path / "photos" / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    task = only(tmp_path / "photos")
    assert task.read_as.startswith("Hugging Face imagefolder with columns file_name, label")
    assert labels(task, "test") == {f"test/{index}.png": str(index % 2) for index in range(6)}
    assert task.class_names == ("0", "1")


def test_a_parquet_of_paths_is_read_as_the_csv_is(tmp_path):
    files = write_flat(tmp_path / "photos")
    table = write_csv(tmp_path / "photos/a.csv", "path,label", pets(files))
    columns = {"path": files, "label": [label for _, label in pets(files)]}
    pq.write_table(pa.table(columns), tmp_path / "photos/b.parquet")
    of_parquet = only(tmp_path / "photos/b.parquet")
    for name, split in only(table).splits.items():
        assert [(e.file, e.label) for e in split.examples] == [
            (e.file, e.label) for e in of_parquet.splits[name].examples
        ]


def test_numbers_are_ordered_as_numbers_and_may_have_names_beside_them(tmp_path):
    files = write_flat(tmp_path / "photos", images=33)
    numbers = [1 + index % 11 for index in range(33)]
    names = [f"class {12 - number}" for number in numbers]
    plain = write_csv(
        tmp_path / "photos/a.csv", "image,label", list(zip(files, numbers, strict=True))
    )
    rows = list(zip(files, numbers, names, strict=True))
    named = write_csv(tmp_path / "photos/b.tsv", "image,label,class_name", rows, separator="\t")
    assert only(plain).class_names == tuple(str(number) for number in range(1, 12))
    assert only(named).class_names == tuple(f"class {12 - number}" for number in range(1, 12))
    for ours, others in zip(only(plain).splits.values(), only(named).splits.values(), strict=True):
        assert [e.label for e in ours.examples] == [e.label for e in others.examples]


def test_paths_may_be_relative_to_a_folder_elsewhere(tmp_path):
    files = write_flat(tmp_path / "elsewhere")
    table = write_csv(tmp_path / "lists/birds.csv", "image,label", pets(files))
    with pytest.raises(DataError, match=r"20 images are not there: 'images/0\.png' is neither in"):
        only(table)
    task = only(table, data_root=tmp_path / "elsewhere")
    assert (task.name, task.root) == ("birds", tmp_path / "elsewhere")
    absolute = [(str(tmp_path / "elsewhere" / file), label) for file, label in pets(files)]
    moved = only(write_csv(tmp_path / "elsewhere/b.csv", "image,label", absolute))
    assert labels(moved, "test") == labels(task, "test")


def test_minus_one_among_numbers_is_a_class_with_a_warning(tmp_path):
    files = write_flat(tmp_path / "photos")
    rows = [(file, number % 3 - 1) for number, file in enumerate(files)]
    table = write_csv(tmp_path / "photos/labels.csv", "image,label", rows)
    task = only(table)
    assert task.class_names == ("-1", "0", "1")
    said = [problem for problem in task.problems if problem.severity == "warning"]
    assert [problem.line for problem in said if "is taken for a class" in problem.message] == [2]
    assert "-1 is taken for a class, of 7 images" in "\n".join(map(str, said))


def test_a_missing_image_and_a_broken_line_are_named_with_their_line(tmp_path):
    files = write_flat(tmp_path / "photos")
    table = write_csv(tmp_path / "photos/labels.csv", "image,label", pets(files))
    with table.open("a") as file:
        file.write('images/99.png,cat\n\nimages/1.png\nimages/2.png,\n"images/3.png",dog\n')
    task = only(table)
    assert f"{table}:24: has 1 fields, the first line 2" in errors(task)
    assert f"{table}:25: 'images/2.png' has no label" in errors(task)
    found = "\n".join(map(str, check_task(task)))
    assert f"{table}:22: 'images/99.png' cannot be read: No such file or directory" in found
    assert f"{table}:26: " in found, "an image that is named twice"


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("image,colour", ("a.png", "red"), r"hold the labels: its columns are 'image', 'colour'"),
        ("words,label", ("a.png", "red"), r"hold the images: its columns are 'words', 'label'"),
        ("a.png,red", ("b.png", "red"), r"write `image,label` above it"),
        ("image,path,label", ("a", "b", "c"), r"'image', 'path' are all names for the images"),
        ("image,image,label", ("a", "b", "c"), r":1: column 'image' stands here twice"),
    ],
)
def test_what_is_ambiguous_is_asked_with_the_columns_that_there_are(tmp_path, header, row, said):
    write_flat(tmp_path / "photos")
    with pytest.raises(DataError, match=said):
        only(write_csv(tmp_path / "photos/labels.csv", header, [row]))


def test_two_columns_of_labels_that_differ_are_asked_about(tmp_path):
    files = write_flat(tmp_path / "photos")
    rows = [(file, index % 2, index % 3) for index, file in enumerate(files)]
    table = write_csv(tmp_path / "photos/labels.csv", "image,label,category", rows)
    with pytest.raises(DataError, match=r"'label', 'category' are all names for the labels and"):
        only(table)


def test_two_tables_beside_images_are_asked_about(tmp_path):
    files = write_flat(tmp_path / "photos")
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / "photos" / name, "image,label", pets(files))
    with pytest.raises(DataError, match=r"a.csv, b.csv all have columns of images and labels"):
        only(tmp_path / "photos")


def test_an_image_of_test_may_not_be_in_train(tmp_path):
    files = write_flat(tmp_path / "photos")
    copy = tmp_path / "photos/images/copy.png"
    copy.write_bytes((tmp_path / "photos" / files[0]).read_bytes())
    rows = [(*row, "train" if index < 16 else "test") for index, row in enumerate(pets(files))]
    rows += [("images/copy.png", "cat", "test"), (files[1], "dog", "test")]
    task = only(write_csv(tmp_path / "photos/labels.csv", "image,label,split", rows))
    assert "'images/1.png' is in test and in " in errors(task)
    found = [p.message for p in check_task(task) if p.severity == "error"]
    assert any("'images/copy.png', label 0, is the same image as" in message for message in found)


def test_exact_copies_stay_on_one_side_of_a_split_of_ours(tmp_path):
    files = write_flat(tmp_path / "photos", images=10)
    for file in files:
        path = tmp_path / "photos" / file
        path.with_name(f"copy-{path.name}").write_bytes(path.read_bytes())
    both = [*files, *(file.replace("images/", "images/copy-") for file in files)]
    rows = [(file, PETS[index % 2]) for index, file in enumerate(both)]
    task = only(write_csv(tmp_path / "photos/labels.csv", "image,label", rows))
    sides = {file: name for name in ("train", "val", "test") for file in labels(task, name)}
    assert len(sides) == 20
    for file in files:
        assert sides[file] == sides[file.replace("images/", "images/copy-")]


def test_no_path_leads_out_of_the_folder(tmp_path):
    files = write_flat(tmp_path / "photos")
    bad = [("../secret.png", "cat"), ("/etc/passwd", "dog"), ("https://x.org/1.png", "cat")]
    task = only(write_csv(tmp_path / "photos/labels.csv", "image,label", pets(files) + bad))
    assert ":22: '../secret.png' leads out of the task's folder with '..'" in errors(task)
    assert ":23: '/etc/passwd' lies outside of" in errors(task)
    assert ":24: 'https://x.org/1.png' is an address" in errors(task)


def test_a_split_of_another_name_and_a_class_without_training_images_are_named(tmp_path):
    files = write_flat(tmp_path / "photos")
    rows = [(*row, "train") for row in pets(files[:10])]
    rows += [(files[10], "cat", "extra"), (files[11], "fox", "test"), (files[12], "cat", "test")]
    task = only(write_csv(tmp_path / "photos/labels.csv", "image,label,split", rows))
    assert ":12: split 'extra': it is one of train, val, test" in errors(task)
    assert ":13: class 'fox' has no image in train, so it cannot be learnt" in errors(task)


def test_a_test_table_without_labels_is_left_out(tmp_path):
    files = write_flat(tmp_path / "photos")
    write_csv(tmp_path / "photos/train.csv", "image,label", pets(files[:16]))
    write_csv(tmp_path / "photos/test.csv", "image", [(file,) for file in files[16:]])
    task = only(tmp_path / "photos")
    assert "test" not in task.splits
    warnings = [problem.message for problem in task.problems]
    assert any(message.startswith("left out of test: ") for message in warnings)
    assert not task.errors()


def test_a_table_of_nothing_but_its_first_line_names_no_image(tmp_path):
    write_flat(tmp_path / "photos")
    task = only(write_csv(tmp_path / "photos/labels.csv", "image,label", []))
    assert "no image of train can be used" in errors(task)


def test_a_table_is_found_where_it_was_moved_to(tmp_path):
    """`--data` names it, its folder, or what its paths are relative to while it stays."""
    files = write_flat(tmp_path / "new/photos")
    table = write_csv(tmp_path / "new/photos/labels.csv", "image,label", pets(files))
    old = str(tmp_path / "old/photos/labels.csv")
    assert moved_suite(old, table) == (str(table), None)
    assert moved_suite(old, table.parent) == (str(table), None)
    there = write_csv(tmp_path / "lists/birds.csv", "image,label", pets(files))
    assert moved_suite(str(there), table.parent) == (str(there), str(table.parent))
    suite, data_root = moved_suite(str(there), table.parent)
    assert data_root is not None
    assert labels(only(Path(suite), data_root=Path(data_root)), "test") == labels(
        only(table), "test"
    )


def test_published_numbers_do_not_stand_beside_all_of_a_data_set():
    """The DTD of VTAB-1k is a cut of it, under the same name."""
    plan = make_plan(tasks=("dtd",))
    (dtd,) = plan.tasks
    of_lists = replace(plan, tasks=(replace(dtd, num_classes=47),))
    in_folders = replace(plan, tasks=(replace(dtd, num_classes=47, read_as="DTD"),))
    assert is_official(of_lists, "dtd")
    assert not is_official(in_folders, "dtd")


def write_shard(path: Path, labels: Sequence[int], names: Sequence[str]) -> None:
    """Parquet as Hugging Face writes it; without names if there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [path.name.encode() + bytes([row]) for row in range(len(labels))]
    table = pa.table({"image": images, "label": list(labels)})
    features = {"label": {"names": list(names)}} if names else {}
    about = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": about}), path)


@pytest.mark.parametrize("names", [(), ("cat", "cow")])
def test_tables_that_name_other_classes_are_refused(names, tmp_path):
    write_shard(tmp_path / "train-00000-of-00002.parquet", [0, 1] * 4, PETS)
    write_shard(tmp_path / "train-00001-of-00002.parquet", [0, 1] * 4, names)
    said = errors(only(tmp_path))
    assert "train-00001-of-00002.parquet: class" in said
    assert "is none of the 2 that another table names: cat, dog" in said


def test_a_column_that_stands_twice_in_a_binary_table_is_named(tmp_path):
    columns = [pa.array([b"1", b"2"]), pa.array([0, 1]), pa.array([0, 1])]
    table = pa.Table.from_arrays(columns, names=["image", "label", "label"])
    pq.write_table(table, tmp_path / "photos.parquet")
    with pytest.raises(DataError, match="column 'label' stands here twice"):
        only(tmp_path / "photos.parquet")


def test_labels_in_bytes_are_not_taken_for_images(tmp_path):
    files = write_flat(tmp_path)
    table = pa.table({"image_path": files, "label": [pet.encode() for pet in PETS * 10]})
    pq.write_table(table, tmp_path / "photos.parquet")
    assert "is bytes; write labels as text or numbers" in errors(only(tmp_path / "photos.parquet"))


def test_an_absolute_path_may_not_climb_out_of_the_folder(tmp_path):
    home = tmp_path / "photos"
    files = [str(home / file) for file in write_flat(home)]
    (tmp_path / "secret.png").write_bytes((home / "images/0.png").read_bytes())
    rows = [*zip(files, PETS * 10, strict=True), (f"{home}/../secret.png", "cat")]
    task = only(write_csv(home / "labels.csv", "image,label", rows))
    assert "leads out of the task's folder with '..'" in errors(task)
    assert not any(".." in one.file for split in task.splits.values() for one in split.examples)


def test_absolute_paths_may_be_written_through_a_link(tmp_path):
    """As on clusters, where /home/me is a link to the disk that it lies on."""
    home, link = tmp_path / "disk", tmp_path / "home"
    files = write_flat(home)
    link.symlink_to(home)
    rows = list(zip((str(link / file) for file in files), PETS * 10, strict=True))
    task = only(write_csv(home / "labels.csv", "image,label", rows))
    assert not task.errors()
    assert {one.file for split in task.splits.values() for one in split.examples} == set(files)


@pytest.mark.parametrize("name", ["black\x1b[31m cat", "two\nlines", "half\ud800"])
def test_a_class_whose_name_cannot_be_printed_is_refused(name, tmp_path):
    files = write_flat(tmp_path)
    labels = [name, "dog"] * 10
    rows = [{"image": file, "label": one} for file, one in zip(files, labels, strict=True)]
    (tmp_path / "pets.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "has a name that cannot be printed" in errors(only(tmp_path / "pets.jsonl"))


def test_images_may_be_named_by_numbers_that_are_no_text(tmp_path):
    write_flat(tmp_path)
    rows = [{"image_id": number, "label": PETS[number % 2]} for number in range(20)]
    (tmp_path / "pets.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = only(tmp_path / "pets.jsonl")
    assert not task.errors()
    assert sum(len(task.splits[name]) for name in ("train", "val", "test")) == 20


def test_a_folder_of_images_that_is_not_there_is_named(tmp_path):
    rows = list(zip(write_flat(tmp_path), PETS * 10, strict=True))
    table = write_csv(tmp_path / "labels.csv", "image,label", rows)
    with pytest.raises(DataError, match=r"--data: .*nowhere is not a folder"):
        only(table, data_root=tmp_path / "nowhere")
