"""Splits of our own: by a seed of their own, with copies on one side, and true words when small."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plans import make_plan
from suites import write_pictures

from orchestrator.data.check import check_task
from orchestrator.data.image_folder import read_image_folder_task
from orchestrator.data.images import ContentHashes
from orchestrator.data.split import SplitRule, divide, split_rule
from orchestrator.data.task import Example, Problem, Task
from orchestrator.plan.plan import plan_document, read_plan


@pytest.fixture
def hashes(tmp_path) -> ContentHashes:
    return ContentHashes(tmp_path / "hashes.sqlite")


def read(root: Path, hashes: ContentHashes, **rule) -> tuple[Task, list[Problem]]:
    task = read_image_folder_task(root, rule=SplitRule(**rule), hashes=hashes)
    return task, check_task(task, hashes=hashes)


def messages(problems: list[Problem], severity: str) -> str:
    return "\n".join(problem.message for problem in problems if problem.severity == severity)


def sizes(task: Task) -> dict[str, int]:
    return {name: len(split) for name, split in task.splits.items() if name != "trainval"}


def side_of(task: Task) -> dict[str, str]:
    return {
        example.file: name
        for name in ("train", "val", "test")
        if name in task.splits
        for example in task.splits[name].examples
    }


@pytest.mark.parametrize(
    ("text", "fractions"),
    [
        ("60/20/20", (0.6, 0.2, 0.2)),
        ("0.5/0.25/0.25", (0.5, 0.25, 0.25)),
        ("80/20", (0.8, 0.2, 0)),
        ("80, 10, 10", (0.8, 0.1, 0.1)),
        ("70%/30%/0%", (0.7, 0.3, 0)),
        (None, None),
    ],
)
def test_fractions_as_people_write_them(text, fractions):
    found = split_rule(3, text)
    assert found.seed == 3
    assert found.fractions == (fractions and pytest.approx(fractions))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("60/20", "makes 80"),
        ("60/20/30", "makes 110"),
        ("100", "1 parts"),
        ("25/25/25/25", "4 parts"),
        ("a/b", "not made of numbers"),
        ("100/0", "train and val must be above 0"),
        ("120/-10/-10", "must be above 0"),
        ("nan/50/50", "60/20/20"),
        ("", "not made of numbers"),
    ],
)
def test_impossible_fractions_say_what_would_work(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        split_rule(0, text)
    assert "60/20/20" in str(caught.value)


def test_fractions_without_test_make_none(tmp_path, hashes):
    root = write_pictures(tmp_path / "photos", "cat", "dog")
    task, _ = read(root, hashes, fractions=(0.8, 0.2, 0.0))
    assert sizes(task) == {"train": 16, "val": 4}


def test_fractions_hold_where_only_train_is_there(tmp_path, hashes):
    root = write_pictures(tmp_path / "photos", "train/cat", "train/dog")
    assert sizes(read(root, hashes)[0]) == {"train": 16, "val": 4}
    chosen = (0.5, 0.3, 0.2)
    assert sizes(read(root, hashes, fractions=chosen)[0]) == {"train": 10, "val": 6, "test": 4}
    write_pictures(root, "test/cat", "test/dog", images=3)
    assert sizes(read(root, hashes, fractions=chosen)[0]) == {"train": 12, "val": 8, "test": 6}


def test_exact_copies_stay_on_one_side_and_are_counted(tmp_path, hashes):
    root = write_pictures(tmp_path / "photos", "cat", "dog", images=12)
    for number in range(4):
        shutil.copy(root / f"cat/{number}.png", root / f"cat/copy{number}.png")
        shutil.copy(root / f"cat/{number}.png", root / f"cat/again{number}.png")
    for seed in range(10):
        task, problems = read(root, hashes, seed=seed)
        side = side_of(task)
        assert len(side) == 32
        for number in range(4):
            names = ("", "copy", "again")
            assert len({side[f"cat/{name}{number}.png"] for name in names}) == 1
        assert messages(problems, "error") == ""
        assert "8 images are exact copies of others" in messages(problems, "warning")


def test_copies_under_two_labels_stay_on_one_side_and_are_said(tmp_path, hashes):
    root = write_pictures(tmp_path / "photos", "cat", "dog", images=12)
    for number in range(3):
        shutil.copy(root / f"cat/{number}.png", root / f"dog/cat{number}.png")
    for seed in range(10):
        task, problems = read(root, hashes, seed=seed)
        side = side_of(task)
        for number in range(3):
            assert side[f"cat/{number}.png"] == side[f"dog/cat{number}.png"]
        assert messages(problems, "error") == ""
        assert "3 images are exact copies of others with another label" in messages(
            problems, "warning"
        )


def test_copies_between_splits_of_the_user_stay_an_error(tmp_path, hashes):
    root = write_pictures(tmp_path / "photos", "train/cat", "train/dog", "test/cat", "test/dog")
    shutil.copy(root / "train/cat/0.png", root / "test/cat/0.png")
    _, problems = read(root, hashes)
    assert "is the same image as" in messages(problems, "error")


def test_without_copies_the_split_is_that_of_older_versions(tmp_path, hashes):
    root = write_pictures(tmp_path / "photos", "cat", "dog", images=20)
    now, _ = read(root, hashes)
    before, _ = read(root, hashes, copies_together=False)
    assert now.splits == before.splits
    assert [e.file for e in now.splits["test"].examples] == [
        "cat/1.png", "cat/12.png", "cat/13.png", "cat/8.png",
        "dog/17.png", "dog/18.png", "dog/19.png", "dog/7.png",
    ]  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pictures=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=3, max_size=40),
    seed=st.integers(0, 2**32),
    fractions=st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.2, 0.0), (0.1, 0.1, 0.8)]),
)
def test_any_division_is_a_partition_that_parts_no_copies(pictures, seed, fractions):
    examples = [
        Example("/", f"{label}/{number}.png", label, 0)
        for number, (label, _) in enumerate(pictures)
    ]
    number = Counter(picture for _, picture in pictures)
    copies = {
        example.file: bytes([picture])
        for example, (_, picture) in zip(examples, pictures, strict=True)
        if number[picture] > 1
    }
    parts = divide(examples, seed, fractions, copies)
    assert sorted(one for part in parts for one in part) == sorted(examples)
    placed = [{copies[one.file] for one in part if one.file in copies} for part in parts]
    assert sum(map(len, placed)) == len(set().union(*placed))


@pytest.mark.parametrize(
    ("images", "severity", "message"),
    [
        (1, "error", "val would be empty: no class has the two images"),
        (2, "warning", "no class has the three images"),
        (3, "warning", "val has 2 images: one of them is 50 points of accuracy"),
    ],
)
def test_few_images_are_said_as_they_are(tmp_path, hashes, images, severity, message):
    root = write_pictures(tmp_path / "photos", "cat", "dog", images=images)
    _, problems = read(root, hashes)
    assert message in messages(problems, severity)
    assert "holds no image" not in messages(problems, severity)


def test_a_val_of_two_hundred_images_is_not_called_small(tmp_path, hashes):
    root = write_pictures(tmp_path / "photos", "cat", "dog", images=50)
    assert read(root, hashes)[1] == []


def test_a_class_of_copies_alone_cannot_be_validated_and_is_named(tmp_path, hashes):
    root = write_pictures(tmp_path / "photos", "cat", "dog")
    write_pictures(root, "emu", images=1)
    for number in range(1, 5):
        shutil.copy(root / "emu/0.png", root / f"emu/{number}.png")
    task, problems = read(root, hashes)
    assert {side_of(task)[f"emu/{number}.png"] for number in range(5)} == {"train"}
    said = messages(problems, "warning")
    assert "1 of 3 classes have no image here: 2 (emu, 5 in train)" in said


def test_plans_keep_the_split_that_they_were_made_with():
    plan = make_plan(seed=5)
    assert plan.split_rule == SplitRule(seed=5, copies_together=False)
    document = plan_document(plan)
    now = {**document, "split_seed": 2, "split": [0.5, 0.25, 0.25]}
    again = read_plan(now, source="sweep.yaml")
    assert again.split_rule == SplitRule(seed=2, fractions=(0.5, 0.25, 0.25))
    older = {k: v for k, v in document.items() if k not in ("split_seed", "split")}
    assert read_plan(older, source="sweep.yaml").split_rule == plan.split_rule
    with pytest.raises(ValueError, match="sum 1"):
        read_plan({**now, "split": [0.5, 0.5, 0.5]}, source="sweep.yaml")
