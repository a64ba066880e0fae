"""What of a folder is an image, and that whatever is not used is counted."""

import os
from collections import Counter
from pathlib import Path

import pytest
from suites import write_pictures

from orchestrator.data import walk
from orchestrator.data.check import check_task
from orchestrator.data.image_folder import read_image_folder_task
from orchestrator.data.images import ContentHashes
from orchestrator.data.suites import load_suite
from orchestrator.data.task import DataError, Task
from orchestrator.data.walk import MAX_DEPTH, list_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path_factory.mktemp("cache")))


def said(task: Task, severity: str) -> list[str]:
    return [one.message for one in task.problems if one.severity == severity]


def num_images(task: Task) -> int:
    return sum(len(task.splits[name]) for name in ("train", "val", "test") if name in task.splits)


@pytest.mark.parametrize(
    "place",
    [".ipynb_checkpoints", "@eaDir/1.png", ".thumbnails/large", "__MACOSX", "lost+found", "_old",
     "$RECYCLE.BIN"],
)  # fmt: skip
@pytest.mark.parametrize("above", ["", "cat", "cat/summer"])
def test_what_programs_leave_behind_is_no_image_at_any_depth(tmp_path, place, above):
    root = write_pictures(tmp_path / "photos", "cat", "dog", "cat/summer")
    before = num_images(read_image_folder_task(root))
    write_pictures(root / above / place, ".", images=3)
    task = read_image_folder_task(root)
    assert (task.class_names, num_images(task)) == (("cat", "dog"), before)
    top = place.split("/")[0]
    assert any(f"3 in {top}" in message for message in said(task, "warning"))


@pytest.mark.parametrize("name", ["thumbs", "Thumbs", "recycle", "snapshot", "lost"])
def test_a_word_that_may_be_a_class_is_one(tmp_path, name):
    task = read_image_folder_task(write_pictures(tmp_path / "gestures", "fist", name))
    assert set(task.class_names) == {"fist", name}


def test_hidden_files_are_counted_and_stores_of_versions_are_not(tmp_path):
    root = write_pictures(tmp_path / "photos", "cat", "dog", ".git/annex/objects", ".dvc/cache")
    for name in ("._0.png", ".1.png"):
        (root / "cat" / name).write_bytes(b"x")
    (message,) = [one for one in said(read_image_folder_task(root), "warning") if "hidden" in one]
    assert message.endswith(": 2 in hidden files")


def test_images_that_are_not_read_are_counted_by_ending_and_place(tmp_path):
    root = write_pictures(tmp_path / "photos", "train/cat", "train/dog", "val/cat", "val/dog")
    for number in range(5):
        (root / "train/cat" / f"{number}.HEIC").write_bytes(b"x")
    for name in ("val/dog/1.psd", "cover.svg"):
        (root / name).write_bytes(b"x")
    task = read_image_folder_task(root)
    by_split = {p.split: p.message for p in task.problems if "not read" in p.message}
    assert by_split["train"].startswith("5 .heic") and by_split["train"].endswith("in: cat 5")
    assert by_split["val"].startswith("1 .psd")
    assert by_split[""].startswith("1 .svg")
    assert len(said(task, "error")) == 0


def test_files_that_are_no_images_are_noted(tmp_path):
    root = write_pictures(tmp_path / "photos", "cat", "dog")
    for name in ("labels.csv", "cat/0.json", "cat/1.json", "dog/noending", "cat/Thumbs.db"):
        (root / name).touch()
    (note,) = read_image_folder_task(root).notes
    assert note == "files of photos that are no images: 2 .json, 1 .csv, 1 without an ending"


def test_a_folder_without_images_is_no_class(tmp_path):
    root = write_pictures(tmp_path / "photos", "cat", "dog")
    (root / "docs").mkdir()
    (root / "docs/readme.txt").touch()
    assert read_image_folder_task(root).class_names == ("cat", "dog")


def test_a_class_whose_images_are_not_read_is_named(tmp_path):
    root = write_pictures(tmp_path / "photos", "cat", "dog")
    (root / "emu").mkdir()
    (root / "emu/1.heic").touch()
    problems = check_task(read_image_folder_task(root), hashes=ContentHashes(tmp_path / "h.sqlite"))
    assert any("classes have no image: 2 (emu)" in problem.message for problem in problems)


def linked_photos(tmp_path: Path, how: str) -> Path:
    store = write_pictures(tmp_path / "store", "cat", "dog")
    root = tmp_path / "photos"
    if how == "folder":
        root.symlink_to(store)
        return root
    root.mkdir()
    for folder in ("cat", "dog"):
        if how == "classes":
            (root / folder).symlink_to(store / folder)
            continue
        (root / folder).mkdir()
        for image in sorted((store / folder).iterdir()):
            (root / folder / image.name).symlink_to(image)
    return root


@pytest.mark.parametrize("how", ["folder", "classes", "images"])
def test_linked_images_and_classes_are_read_like_others(tmp_path, how):
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    task = read_image_folder_task(linked_photos(tmp_path, how))
    plain = read_image_folder_task(tmp_path / "store")
    assert task.class_names == ("cat", "dog")
    assert {
        name: [(e.file, e.label) for e in split.examples] for name, split in task.splits.items()
    } == {name: [(e.file, e.label) for e in split.examples] for name, split in plain.splits.items()}
    assert [p for p in check_task(task, hashes=hashes) if p.severity == "error"] == []
    assert (how == "folder") == (task.notes == ())


def test_no_folder_is_read_twice_and_no_loop_is_followed(tmp_path):
    root = write_pictures(tmp_path / "photos", "cat", "dog")
    (root / "cat/again").symlink_to("../dog")
    (root / "cat/loop").symlink_to("..")
    (root / "dog/everything").symlink_to("/")
    (root / "more").symlink_to(tmp_path / "more")
    write_pictures(tmp_path / "more", ".", images=3)
    (tmp_path / "more/back").symlink_to(tmp_path)
    task = read_image_folder_task(root)
    assert task.class_names == ("cat", "dog", "more")
    assert num_images(task) == 23
    (message,) = [one for one in said(task, "warning") if "not followed" in one]
    for link in ("cat/again", "cat/loop", "dog/everything", "more/back"):
        assert link in message


def test_links_to_nowhere_are_one_error(tmp_path):
    root = write_pictures(tmp_path / "photos", "cat", "dog")
    for number in range(50):
        (root / "cat" / f"annex{number}.png").symlink_to("../../.git/annex/objects/gone")
    (root / "emu").symlink_to("/no/such/folder")
    (message,) = said(read_image_folder_task(root), "error")
    assert message.startswith("51 links lead nowhere (emu, cat/annex0.png, ")
    assert "git annex get" in message


def test_what_is_no_regular_file_is_refused(tmp_path):
    root = write_pictures(tmp_path / "photos", "cat", "dog")
    os.mkfifo(root / "cat/pipe.png")
    (root / "dog/zero.png").symlink_to("/dev/zero")
    (root / "dog/loop.png").symlink_to("loop.png")
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    errors = [p for p in check_task(read_image_folder_task(root), hashes=hashes)
              if p.severity == "error"]  # fmt: skip
    assert sorted(p.file.name for p in errors) == ["photos", "pipe.png", "zero.png"]


def test_a_file_outside_of_a_folder_of_lists_is_still_refused(tmp_path):
    from suites import write_task

    from orchestrator.data.vtab import read_vtab_task

    folder = write_task(tmp_path / "task")
    image = folder / "images/val/000004.png"
    image.rename(tmp_path / "outside.png")
    image.symlink_to(tmp_path / "outside.png")
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    (problem,) = check_task(read_vtab_task(folder), hashes=hashes)
    assert "leads out of the folder" in problem.message


def test_a_folder_is_listed_in_the_order_of_names(tmp_path):
    root = write_pictures(tmp_path / "photos", "10", "2", "1", images=2)
    assert [one.name for one in list_folder(root).folders] == ["1", "10", "2"]
    for folder in list_folder(root).everything():
        assert folder.images == sorted(folder.images)


def test_folders_nested_without_end_are_refused(tmp_path):
    deep = tmp_path / "/".join(["d"] * (MAX_DEPTH + 2))
    deep.mkdir(parents=True)
    with pytest.raises(DataError, match="nested deeper"):
        list_folder(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter any folder")
def test_a_class_that_may_not_be_entered_is_an_error(tmp_path):
    root = write_pictures(tmp_path / "photos", "cat", "dog", "emu")
    (root / "emu").chmod(0)
    assert any("cannot be read: emu" in one for one in said(read_image_folder_task(root), "error"))
    (root / "emu").chmod(0o700)


def test_every_image_is_used_or_counted(tmp_path):
    """The sum over splits and counts is what lies on the disk."""
    root = write_pictures(tmp_path / "photos", "cat", "dog", "cat/.hidden", "_old", ".", images=7)
    (root / "cat/x.heic").touch()
    folder = list_folder(root)
    counts = Counter[str]()
    for one in folder.everything():
        counts += Counter(read=len(one.images), unread=one.unread.total())
        counts += Counter(hidden=one.hidden.total())
    assert counts == {"read": 21, "unread": 1, "hidden": 14}
    assert folder.num_images == 21
    assert "7 images directly in photos" in "".join(said(read_image_folder_task(root), "warning"))


def test_tasks_may_share_images_by_links(tmp_path):
    root = write_pictures(tmp_path / "mine", "full/train/cat", "full/train/dog", "full/val/cat")
    write_pictures(root, "full/val/dog", "small/train/dog", "small/val/cat", "small/val/dog")
    (root / "small/train/cat").symlink_to("../../full/train/cat")
    (root / "latest").symlink_to("small")
    full, small = load_suite(str(root)).tasks
    assert (full.name, small.name) == ("full", "small")
    assert num_images(full) == num_images(small) == 40
    assert any("not followed" in one and "latest" in one for one in said(full, "warning"))


def test_links_round_many_folders_are_refused_by_a_limit(tmp_path, monkeypatch):
    names = "abcdef"
    for name in names:
        (tmp_path / name).mkdir()
        for other in names.replace(name, ""):
            (tmp_path / name / other).symlink_to(f"../{other}")
    monkeypatch.setattr(walk, "MAX_AGAIN", 500)
    with pytest.raises(DataError, match="links lead more than 500 times to folders"):
        list_folder(tmp_path)


def test_what_a_link_leads_to_is_the_same_from_wherever_the_folder_is_reached(tmp_path):
    """Each image keeps the class of its own folder, though another class links to that."""
    root = write_pictures(tmp_path / "store/photos", "cat", "dog")
    (root / "cat/again").symlink_to("../dog")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photos").symlink_to(root)
    direct = read_image_folder_task(root)
    for above in ("mine", "store"):
        task = read_image_folder_task(tmp_path / above)
        assert task.name == "photos"
        for name in direct.splits:
            assert [(one.file, one.label) for one in task.splits[name].examples] == [
                (one.file, one.label) for one in direct.splits[name].examples
            ]
    assert not any("several folders" in one for one in said(direct, "warning"))


def test_a_link_to_what_holds_any_folder_on_the_way_is_not_followed(tmp_path):
    root = write_pictures(tmp_path / "store/x", "inner/cat", "inner/dog")
    (root / "up").symlink_to("../../store")
    (tmp_path / "top").mkdir()
    (tmp_path / "top/x").symlink_to(root)
    (tmp_path / "store/top").symlink_to("../top")
    (x,) = list_folder(tmp_path / "top").folders
    assert (x.repeated, [one.name for one in x.folders]) == (["up"], ["inner"])
