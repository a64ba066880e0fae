"""Images and weights that were moved are found again where one says, and known by their content."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plans import make_plan
from suites import write_suite

from orchestrator.cli.options import expanded
from orchestrator.data.cache import ImageCache, task_fingerprint
from orchestrator.data.suites import load_suite
from orchestrator.plan.places import PLACES_FILE, Places, at_places, find_places, keep_places
from orchestrator.plan.plan import SweepPlan, TaskPlan
from orchestrator.plan.prepare import planned_suite, reopen_suite
from orchestrator.training.backbone import image_transform, load_planned_backbone


def write_photos(root: Path) -> Path:
    """Class folders, unsplit: the task has the name of the folder."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(10):
            pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def plan_of(suite: Path | str, data_root: Path | None = None) -> SweepPlan:
    """A plan of the tasks of a suite as they are now."""
    plan = make_plan()
    transform = image_transform(plan.backbone)
    tasks = load_suite(str(suite), data_root=data_root).tasks
    return replace(
        plan,
        suite=str(suite),
        data_root=str(data_root) if data_root else None,
        tasks=tuple(
            TaskPlan(
                name=task.name,
                group="",
                num_classes=task.num_classes,
                num_train=len(task.splits["train"]),
                num_val=len(task.splits["val"]),
                root=str(task.root),
                fingerprint=task_fingerprint(task, transform),
            )
            for task in tasks
        ),
    )


@pytest.mark.parametrize(
    ("moved_to", "given"),
    [
        ("disk/photos", "disk/photos"),
        ("disk/photos", "disk"),
        ("disk/photos", "disk/photos/"),
        ("disk/pictures", "disk/pictures"),
        ("a disk #1%/photos", "a disk #1%"),
    ],
)
@pytest.mark.parametrize("write", [write_photos, write_suite])
def test_a_moved_folder_is_named_itself_or_by_what_it_lies_in(write, moved_to, given, tmp_path):
    root = write(tmp_path / "data" / "photos")
    plan = plan_of(root)
    (tmp_path / moved_to).parent.mkdir(parents=True)
    shutil.move(root, tmp_path / moved_to)
    with pytest.raises(ValueError, match=r"data/photos .* say where with --data"):
        reopen_suite(plan, ImageCache(tmp_path / "cache"))
    places = find_places(tmp_path, Path(f"{tmp_path}/{given}"), None)
    suite = reopen_suite(at_places(plan, places), ImageCache(tmp_path / "cache"))
    assert [task.name for task in suite.tasks] == [task.name for task in plan.tasks]
    assert all(task.root.is_relative_to(tmp_path / moved_to) for task in suite.tasks)


@pytest.mark.parametrize("given", ["disk", "disk/vtab-1k"])
def test_a_published_suite_is_named_by_its_folder_or_its_data_root(given, tmp_path):
    write_suite(tmp_path / "data" / "vtab-1k", ("cifar", "dtd"))
    plan = plan_of("vtab", tmp_path / "data")
    shutil.move(tmp_path / "data", tmp_path / "disk")
    moved = at_places(plan, find_places(tmp_path, tmp_path / given, None))
    found = reopen_suite(moved, ImageCache(tmp_path / "cache"))
    assert len(found.tasks) == 2


def test_other_images_at_the_place_are_refused(tmp_path):
    plan = plan_of(write_photos(tmp_path / "photos"))
    other = write_photos(tmp_path / "other")
    shutil.copy(other / "cat" / "1.png", other / "cat" / "0.png")
    moved = at_places(plan, Places(data=str(other)))
    with pytest.raises(ValueError, match="the images or labels of photos changed"):
        reopen_suite(moved, ImageCache(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("suite", "data", "told"),
    [
        ("quickstart", ".", "the quickstart writes its own images"),
        ("/data/photos", "nowhere", "nowhere is not a folder"),
    ],
)
def test_a_place_of_no_use_is_refused(suite, data, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=told):
        at_places(replace(make_plan(), suite=suite), find_places(tmp_path, Path(data), None))


def test_what_was_given_is_remembered_as_long_as_it_is_there(tmp_path):
    disk, weights = tmp_path / "disk", tmp_path / "weights.safetensors"
    disk.mkdir()
    weights.touch()
    given = find_places(tmp_path, disk, weights)
    keep_places(tmp_path, given)
    assert find_places(tmp_path, None, None) == given
    other = tmp_path / "other"
    other.mkdir()
    assert find_places(tmp_path, other, None) == replace(given, data=str(other))
    disk.rmdir()
    assert find_places(tmp_path, None, None) == replace(given, data=None)


@pytest.mark.parametrize(
    "text", ["data: photos\n", "data: 5\n", "- data\n", "somewhere\n", "dta: /x\n", "data: ''\n"]
)
def test_a_list_of_places_that_is_none_is_refused(text, tmp_path):
    (tmp_path / PLACES_FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"{PLACES_FILE}: .*(expected|unknown)"):
        find_places(tmp_path, None, None)


def test_the_list_of_places_is_not_written_through_a_link(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("kept")
    (tmp_path / f"{PLACES_FILE}.part").symlink_to(mine)
    keep_places(tmp_path, Places(data="/data"))
    assert mine.read_text() == "kept"
    assert find_places(tmp_path, None, None) == Places()
    assert (tmp_path / PLACES_FILE).read_text().startswith("data: /data")


@pytest.mark.parametrize("name", [b"photos \xff", b"photos \x07"])
def test_a_place_that_no_text_can_hold_is_used_once_and_said(name, tmp_path, caplog):
    photos = tmp_path / os.fsdecode(name)
    photos.mkdir()
    given = find_places(tmp_path, photos, None)
    keep_places(tmp_path, given)
    again = find_places(tmp_path, None, None)
    assert again == given or (again == Places() and "used this time only" in caplog.text)


def test_weights_that_are_gone_are_told_with_the_option():
    backbone = replace(make_plan().backbone, weights="/gone/weights.safetensors")
    with pytest.raises(ValueError, match=r"/gone/weights.safetensors: .* with --weights"):
        load_planned_backbone(backbone, "cpu")


def test_a_tilde_that_no_shell_expanded_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert expanded("~/images") == Path("/home/someone/images")


def test_a_folder_that_is_there_is_found_without_a_place(tmp_path):
    plan = plan_of(write_photos(tmp_path / "photos"))
    assert planned_suite(plan).tasks[0].name == "photos"
