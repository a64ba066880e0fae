"""The JSON lists of the fine-grained tasks."""

import json
from pathlib import Path

import pytest

from orchestrator.data.fgvc import FGVC, FINE_GRAINED_TASKS, LISTS, read_fgvc_task


def write_lists(folder: Path, **lists: object) -> Path:
    folder.mkdir(parents=True)
    for split, content in lists.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / LISTS[split]).write_text(text)
    return folder


SOUND = {
    "train": {"a.jpg": 295, "b.jpg": 627, "c.jpg": 1010},
    "val": {"d.jpg": 1010, "e.jpg": 295},
    "test": {"f.jpg": 627},
}


def test_labels_come_from_train_for_every_split(tmp_path):
    """A class that val lacks must not shift the labels behind it (NABirds: 627 is not in val)."""
    task = read_fgvc_task(write_lists(tmp_path / "nabirds", **SOUND))
    labels = {name: [e.label for e in split.examples] for name, split in task.splits.items()}
    assert labels == {"train": [0, 1, 2], "val": [2, 0], "trainval": [0, 1, 2, 2, 0], "test": [1]}
    assert task.class_names == ("295", "627", "1010")
    assert task.splits["train"].examples[0].file == "images/a.jpg"
    assert (task.group, task.official, task.errors()) == ("fine_grained", True, [])


def test_ids_are_numbers_even_as_strings(tmp_path):
    lists = {
        "train": {"x.jpg": "010", "y.jpg": "002"},
        "val": {"z.jpg": "002"},
        "test": {"t.jpg": 10},
    }
    task = read_fgvc_task(write_lists(tmp_path / "birds", **lists))
    assert task.class_names == ("2", "10")
    assert [e.label for e in task.splits["test"].examples] == [1]


@pytest.mark.parametrize(
    ("folder", "task"),
    [
        ("CUB_200_2011", "cub"),
        ("cub", "cub"),
        ("NABirds", "nabirds"),
        ("OxfordFlower", "oxford_flowers"),
        ("StanfordCars", "stanford_cars"),
        ("Stanford-Dogs", "stanford_dogs"),
        ("flowers_of_mine", None),
    ],
)
def test_folder_names_of_other_repositories_mean_the_official_task(folder, task):
    assert FGVC.official_name(folder) == task


def test_the_five_tasks_have_the_counted_sizes():
    assert [task.num_classes for task in FINE_GRAINED_TASKS.values()] == [200, 555, 102, 120, 196]
    assert [sum(task.counts.values()) for task in FINE_GRAINED_TASKS.values()] == [
        11_788,
        48_562,
        8_189,
        20_580,
        16_185,
    ]


BROKEN = {
    "class unknown to train": ("val", {"d.jpg": 7}, "class 7 has no image in train.json"),
    "id is no number": ("train", {"a.jpg": "cat"}, "class id 'cat' is not an integer"),
    "id is a list": ("train", {"a.jpg": [1]}, "is not an integer"),
    "climbs": ("test", {"../f.jpg": 295}, "leads out of the task's folder"),
    "absolute": ("test", {"/f.jpg": 295}, "must be relative"),
    "list": ("val", ["d.jpg"], "is not a JSON object"),
    "cut off": ("val", '{"d.jpg": 295', "Expecting"),
    "nested": ("val", "[" * 200_000, "recursion"),
    "empty": ("val", {}, "names no image"),
    "in two splits": ("test", {"a.jpg": 295}, "is in test and in train"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_list_is_named(tmp_path, case):
    split, content, message = BROKEN[case]
    task = read_fgvc_task(write_lists(tmp_path / "birds", **SOUND | {split: content}))
    assert any(p.split == split and message in p.message for p in task.errors()), task.problems


def test_an_image_listed_twice_is_said(tmp_path):
    folder = write_lists(tmp_path / "birds", **SOUND | {"val": '{"d.jpg": 295, "d.jpg": 627}'})
    (problem,) = read_fgvc_task(folder).problems
    assert problem.severity == "warning"
    assert "stands here twice" in problem.message


def test_a_missing_list_is_an_error(tmp_path):
    folder = write_lists(tmp_path / "birds", **SOUND)
    (folder / LISTS["test"]).unlink()
    (problem,) = read_fgvc_task(folder).errors()
    assert problem.split == "test"
