"""A user's own folder of images: the split is ours only where the user made none."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data.image_folder import read_image_folder_task
from orchestrator.data.split import SplitRule
from orchestrator.data.task import DataError, Task


def write_folder(root: Path, *, counts: dict[str, int]) -> Path:
    """Empty files: reading a task opens no image."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number:03}.jpg").touch()
    return root


def files(task: Task, split: str) -> list[str]:
    return [example.file for example in task.splits[split].examples]


def test_a_split_made_by_the_user_is_kept(tmp_path):
    folders = {"train/cat": 4, "train/dog": 3, "valid/cat": 2, "valid/dog": 1, "test/dog": 2}
    task = read_image_folder_task(
        write_folder(tmp_path / "pets", counts=folders), rule=SplitRule(seed=3)
    )
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 7,
        "val": 3,
        "trainval": 10,
        "test": 2,
    }
    assert (task.name, task.class_names, task.split_rule) == ("pets", ("cat", "dog"), "")
    assert {e.label for e in task.splits["test"].examples} == {1}
    assert task.problems == ()


def test_unsplit_classes_are_split_evenly(tmp_path):
    task = read_image_folder_task(write_folder(tmp_path / "t", counts={"a": 100, "b": 10}))
    sizes = {name: Counter(e.label for e in split.examples) for name, split in task.splits.items()}
    assert sizes["train"] == {0: 60, 1: 6}
    assert sizes["val"] == sizes["test"] == {0: 20, 1: 2}
    assert task.split_rule == "seed 0, train/val/test 0.6/0.2/0.2 of each class"


def test_only_a_missing_val_is_carved_out_of_train(tmp_path):
    counts = {"train/a": 10, "train/b": 10, "test/a": 5, "test/b": 5}
    task = read_image_folder_task(
        write_folder(tmp_path / "t", counts=counts), rule=SplitRule(seed=7)
    )
    assert [len(task.splits[name]) for name in ("train", "val", "test")] == [16, 4, 10]
    assert task.split_rule == "seed 7, val 0.2 of each class of train"


def test_a_search_needs_no_test_split_but_it_is_said(tmp_path):
    counts = {"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 2}
    task = read_image_folder_task(write_folder(tmp_path / "t", counts=counts))
    assert "test" not in task.splits
    (problem,) = task.problems
    assert (problem.split, problem.severity) == ("test", "warning")


def test_the_split_is_the_seeds(tmp_path):
    root = write_folder(tmp_path / "t", counts={"a": 50, "b": 50})
    first, again, other = (
        read_image_folder_task(root, rule=SplitRule(seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert files(first, "val") != files(other, "val")


def test_one_more_file_moves_few_others(tmp_path):
    root = write_folder(tmp_path / "t", counts={"a": 100, "b": 100})
    before = set(files(read_image_folder_task(root), "train"))
    (root / "a" / "new.jpg").touch()
    after = set(files(read_image_folder_task(root), "train"))
    assert len(before - after) <= 2


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    seed=st.integers(0, 2**32),
    fractions=st.sampled_from([(0.6, 0.2, 0.2), (0.98, 0.01, 0.01), (0.02, 0.49, 0.49)]),
)
def test_any_split_is_a_partition_with_every_class_in_train(
    tmp_path_factory, counts, seed, fractions
):
    root = tmp_path_factory.mktemp("folder") / "t"
    write_folder(root, counts={f"class {n}": count for n, count in enumerate(counts)})
    task = read_image_folder_task(root, rule=SplitRule(seed=seed, fractions=fractions))
    parts = [files(task, name) for name in ("train", "val", "test") if name in task.splits]
    together = [file for part in parts for file in part]
    assert len(together) == len(set(together)) == sum(counts)
    labels = {name: {e.label for e in split.examples} for name, split in task.splits.items()}
    assert labels["train"] == set(range(len(counts)))
    assert labels.get("val", set()) == {n for n, count in enumerate(counts) if count >= 2}
    assert labels.get("test", set()) == {n for n, count in enumerate(counts) if count >= 3}


def test_what_is_no_image_or_hidden_is_left_alone(tmp_path):
    root = write_folder(tmp_path / "t", counts={"a": 5, "b": 5, ".git": 3, "_trash": 3})
    (root / "a" / "notes.txt").touch()
    (root / "a" / "._000.jpg").touch()
    (root / "a" / "PHOTO.JPEG").touch()
    task = read_image_folder_task(root)
    assert task.class_names == ("a", "b")
    assert sum(len(task.splits[name]) for name in ("train", "val", "test")) == 11
    assert "1 in hidden files" in str(task.problems)


def test_a_class_without_training_images_is_an_error(tmp_path):
    counts = {"train/a": 3, "train/b": 3, "val/a": 1, "val/zebra": 1, "test/a": 1}
    task = read_image_folder_task(write_folder(tmp_path / "t", counts=counts))
    (problem,) = task.errors()
    assert (problem.split, problem.file.name) == ("val", "zebra")


def test_names_that_are_no_text_are_refused(tmp_path):
    root = write_folder(tmp_path / "t", counts={"a": 3, "b": 3})
    (root / "a" / "bad\udcff.jpg").touch()
    assert any("not UTF-8" in problem.message for problem in read_image_folder_task(root).errors())


def test_fractions_must_make_a_whole(tmp_path):
    with pytest.raises(DataError, match="sum 1"):
        SplitRule(fractions=(0.5, 0.2, 0.2))
