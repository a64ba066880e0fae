"""What a folder of images is taken for, and what is said when it cannot be told."""

from pathlib import Path

import pytest

from orchestrator.data.layout import split_of
from orchestrator.data.suites import load_suite
from orchestrator.data.task import DataError, Task


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(root: Path, *folders: str, images: int = 4) -> Path:
    """Empty files under names of images: what lies where is read without opening them."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            (root / folder / f"{number}.jpg").touch()
    return root


def tasks_of(root: Path, names: list[str] | None = None) -> dict[str, Task]:
    suite = load_suite(str(root), tasks=names, strict=False)
    return {task.name: task for task in suite.tasks}


def sizes(task: Task) -> dict[str, int]:
    return {name: len(split) for name, split in task.splits.items() if name != "trainval"}


def messages(task: Task, severity: str) -> str:
    return "\n".join(one.message for one in task.problems if one.severity == severity)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAIN training training_set train-set TrainSet images_train "
                  "train_images train2017 trainImages"),
        ("val", "val Valid validation VALIDATION dev eval val_set validation-data val2017"),
        ("test", "test Test testing tests test_set testset holdout hold-out Test_Images"),
        ("trainval", "trainval train_val"),
        (None, "cat testament training_shoes invalid images 2017 contest evaluated"),
    ],
)  # fmt: skip
def test_usual_names_of_splits(split, names):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


@pytest.mark.parametrize(
    "folders",
    [
        ("Train", "Val", "Test"),
        ("training_set", "dev", "holdout"),
        ("train/images", "valid/images", "test/images"),
        ("train/train", "val/val", "test/test"),
        ("train data", "validation data", "test data"),
    ],
)
def test_splits_of_the_user_are_kept_under_any_usual_name(tmp_path, folders):
    inside = [f"{folder}/{name}" for folder in folders for name in ("cat", "dog")]
    (task,) = tasks_of(write(tmp_path / "photos", *inside)).values()
    assert (task.name, task.class_names, task.split_rule) == ("photos", ("cat", "dog"), "")
    assert sizes(task) == {"train": 8, "val": 8, "test": 8}
    assert task.problems == ()


def test_trainval_is_train_where_there_is_no_train(tmp_path):
    root = write(tmp_path / "t", "trainval/a", "trainval/b", "test/a", "test/b", images=5)
    (task,) = tasks_of(root).values()
    assert sizes(task) == {"train": 8, "val": 2, "test": 10}


def test_a_data_set_some_folders_down_is_found_and_what_is_passed_is_counted(tmp_path):
    root = write(tmp_path / "unzipped", "x/photos/train/a", "x/photos/train/b", "x/photos/val/a")
    write(root, "__MACOSX/x/photos", "x/photos/val/b")
    (root / "x/overview.png").touch()
    (task,) = tasks_of(root).values()
    assert (task.name, task.root, task.class_names) == ("photos", root / "x/photos", ("a", "b"))
    assert sizes(task) == {"train": 8, "val": 8}
    assert "found in x/photos" in task.notes
    assert "1 image directly in x" in messages(task, "warning")


def test_a_folder_of_tasks_of_which_one_is_split_is_a_suite(tmp_path):
    root = write(tmp_path / "mine", "pets/train/cat", "pets/train/dog", "pets/val/cat")
    write(root, "cars/audi", "cars/bmw", "examples", "pets/val/dog", images=5)
    tasks = tasks_of(root)
    assert {name: task.class_names for name, task in tasks.items()} == {
        "cars": ("audi", "bmw"),
        "pets": ("cat", "dog"),
    }
    assert "5 images in examples of mine" in messages(tasks["cars"], "warning")
    assert list(tasks_of(root, ["pets"])) == ["pets"]


def test_folders_of_class_folders_are_asked_about_and_read_as_the_named_tasks_say(tmp_path):
    root = write(tmp_path / "two", "a/cat", "a/dog", "b/x", "b/y")
    with pytest.raises(DataError) as caught:
        tasks_of(root)
    for part in ("a: cat, dog; b: x, y", "--tasks a,b", "--tasks two", "move them up"):
        assert part in str(caught.value)
    assert list(tasks_of(root, ["a", "b"])) == ["a", "b"]
    assert list(tasks_of(root, ["b"])) == ["b"]
    whole = tasks_of(root, ["two"])["two"]
    assert whole.class_names == ("a", "b")
    assert "2 classes are learnt, not 4" in messages(whole, "warning")


def test_nested_classes_of_a_split_are_said(tmp_path):
    inside = ("animal/cat", "animal/dog", "vehicle/car")
    root = write(
        tmp_path / "t", *(f"{split}/{one}" for split in ("train", "val") for one in inside)
    )
    (task,) = tasks_of(root).values()
    assert task.class_names == ("animal", "vehicle")
    assert "animal: cat, dog" in messages(task, "warning")
    assert "2 classes are learnt, not 3" in messages(task, "warning")


def test_one_inner_folder_for_each_class_is_no_matter(tmp_path):
    inside = [f"{split}/{one}/images" for split in ("train", "val") for one in ("n01", "n02")]
    (task,) = tasks_of(write(tmp_path / "t", *inside, "test/n01", "test/n02")).values()
    assert (task.class_names, task.problems) == (("n01", "n02"), ())


@pytest.mark.parametrize(
    ("folders", "files", "parts"),
    [
        (("train/a", "train/b", "val/a", "valid/a"), (), ("val and valid are all names for val",)),
        (("test/a", "test/b"), (), ("no folder of training images",)),
        (("a", "b", "test/a", "test/b"), (), ("no folder of training images", "a, b, test")),
        (("cat/train", "cat/val", "dog/train"), (), ("splits stand above the classes",)),
        (("train", "test"), ("train.csv",), ("4 images lie in", "beside t/train.csv")),
        (("train/a", "train/b", "val"), (), ("4 images lie in", "t/val without class folders")),
        ((".",), ("labels.csv",), ("4 images lie in", "beside t/labels.csv", "<class>/0.jpg")),
        (("train",), (), ("train without class folders",)),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_was_seen(tmp_path, folders, files, parts):
    root = write(tmp_path / "t", *folders)
    for file in files:
        (root / file).touch()
    with pytest.raises(DataError) as caught:
        tasks_of(root)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("test", ["test", "test/unknown"])
def test_test_images_without_labels_are_left_out_and_the_search_works(tmp_path, test):
    root = write(tmp_path / "t", "train/a", "train/b", test, images=5)
    (task,) = tasks_of(root).values()
    assert sizes(task) == {"train": 8, "val": 2}
    assert "5 images without class folders, so without labels" in messages(task, "warning")
    assert task.errors() == []


@pytest.mark.parametrize(
    ("folders", "classes", "said"),
    [
        (("train", "car", "bus"), ("bus", "car", "train"), "train is taken for a class"),
        (("valid", "invalid"), ("invalid", "valid"), "valid is taken for a class"),
        (("cat", "dog", "test"), ("cat", "dog"), "4 images in test of t"),
    ],
)
def test_a_class_may_be_called_like_a_split(tmp_path, folders, classes, said):
    (task,) = tasks_of(write(tmp_path / "t", *folders)).values()
    assert task.class_names == classes
    assert said in messages(task, "warning")


def test_folders_beside_the_splits_are_counted(tmp_path):
    root = write(tmp_path / "t", "train/a", "train/b", "val/a", "val/b", "trainval/a", "originals")
    (root / "stray.jpg").touch()
    (task,) = tasks_of(root).values()
    assert sizes(task) == {"train": 8, "val": 8}
    said = messages(task, "warning")
    assert "8 images in originals, trainval of t" in said
    assert "1 image directly in t" in said


def test_a_folder_of_a_split_without_images_is_said(tmp_path):
    root = write(tmp_path / "t", "train/a", "train/b", images=5)
    (root / "val/a").mkdir(parents=True)
    (task,) = tasks_of(root).values()
    assert sizes(task) == {"train": 8, "val": 2}
    assert "folder val holds no image" in messages(task, "warning")


def test_image_folders_lie_beside_tasks_with_lists(tmp_path, caplog):
    from suites import write_task

    write_task(tmp_path / "mine/colours")
    write(tmp_path / "mine", "pets/train/cat", "pets/train/dog", "photos/a", "photos/b", images=5)
    assert list(tasks_of(tmp_path / "mine")) == ["colours", "pets"]
    assert "photos: is no task; its 10 images" in caplog.text
    assert list(tasks_of(write_task(tmp_path / "zip/one/suite/colours").parents[1])) == ["colours"]


def test_the_folder_of_one_split_is_not_the_data_set(tmp_path):
    root = write(tmp_path / "t", "train/a", "train/b", "val/a", "val/b", "testing/a")
    (task,) = tasks_of(root / "train").values()
    assert f"beside train lie testing, val: for their splits name {root}" in messages(
        task, "warning"
    )


def test_images_in_one_folder_beside_a_list_have_no_class(tmp_path):
    root = write(tmp_path / "t", "images")
    (root / "labels.csv").touch()
    with pytest.raises(
        DataError, match=r"4 images lie in .*/images without .* beside t/labels.csv"
    ):
        tasks_of(root)


def test_what_lies_above_the_tasks_is_counted(tmp_path):
    root = write(tmp_path / "t", "a/train/x", "a/train/y", "b/cat", "b/dog", "_old", "@eaDir")
    (root / "cover.heic").touch()
    said = messages(tasks_of(root)["a"], "warning")
    assert "4 in _old" in said and "4 in @eaDir" in said
    assert "in t: 1 .heic" in said


def test_a_fault_of_one_task_does_not_stop_the_others_that_are_named(tmp_path):
    root = write(tmp_path / "t", "a/train/x", "a/train/y", "b/train/x", "b/val/x", "b/valid/x")
    assert list(tasks_of(root, ["a"])) == ["a"]
    with pytest.raises(DataError, match="val and valid"):
        tasks_of(root)


def test_the_splits_of_a_data_set_may_carry_its_name(tmp_path):
    inside = [f"animals_{split}/{one}" for split in ("train", "val", "test") for one in "ab"]
    (task,) = tasks_of(write(tmp_path / "t", *inside)).values()
    assert (task.name, sizes(task)) == ("t", {"train": 8, "val": 8, "test": 8})


def test_tasks_of_a_suite_may_lie_some_folders_down(tmp_path):
    root = write(tmp_path / "t", "pets/images/train/cat", "pets/images/train/dog")
    write(root, "cars/data/images/train/audi", "cars/data/images/train/bmw", images=5)
    tasks = tasks_of(root)
    assert {name: task.class_names for name, task in tasks.items()} == {
        "cars": ("audi", "bmw"),
        "pets": ("cat", "dog"),
    }
    assert tasks["pets"].root == root / "pets/images"


@pytest.mark.parametrize(
    "folders",
    [
        ("g/pets/train/cat", "g/pets/val/cat", "g/cars/train/bmw", "h/x/train/a", "h/y/train/a"),
        ("cat_train", "cat_test", "dog_train", "dog_test"),
        ("cat/train", "cat/test", "dog/train", "dog/test"),
        ("train/cat/train", "train/cat/val", "train/dog/train", "train/dog/val"),
    ],
)
@pytest.mark.parametrize("named", [None, ["t"], ["g", "h"]])
def test_train_and_test_are_never_merged_into_one_class(tmp_path, folders, named):
    root = write(tmp_path / "t", *folders)
    with pytest.raises(DataError):
        tasks_of(root, named)


def test_a_class_of_which_no_image_is_read_is_no_way_down(tmp_path):
    root = write(tmp_path / "t", "cat/2020", "cat/2021", "dog")
    for image in (root / "dog").iterdir():
        image.rename(image.with_suffix(".heic"))
    (task,) = tasks_of(root, ["t"]).values()
    assert task.class_names == ("cat", "dog")


@pytest.mark.parametrize("named", ["", "pets", "tasks", "tasks/pets", "suite", "suite/pets"])
def test_splits_made_of_links_are_the_same_from_wherever_they_are_named(tmp_path, named):
    inside = [f"raw/{name}_{part}" for name in ("cat", "dog") for part in "abc"]
    pets = "pets" if named in ("", "pets") else f"{named.split('/')[0]}/pets"
    root = write(tmp_path / "top" / pets, *inside)
    for split, part in (("train", "a"), ("val", "b"), ("test", "c")):
        (root / split).mkdir()
        for name in ("cat", "dog"):
            (root / split / name).symlink_to(f"../raw/{name}_{part}")
    if named.startswith("suite"):
        write(tmp_path / "top/suite", "cars/train/audi", "cars/train/bmw", images=5)
    tasks = tasks_of(tmp_path / "top" / named)
    assert list(tasks) == (["cars", "pets"] if named == "suite" else ["pets"])
    assert (tasks["pets"].class_names, tasks["pets"].split_rule) == (("cat", "dog"), "")
    assert sizes(tasks["pets"]) == {"train": 8, "val": 8, "test": 8}
    test = {str(one.path.resolve().parent.name) for one in tasks["pets"].splits["test"].examples}
    assert test == {"cat_c", "dog_c"}
    assert "24 images in raw of pets" in messages(tasks["pets"], "warning")


def test_unsplit_tasks_of_a_suite_may_lie_some_folders_down(tmp_path):
    root = write(tmp_path / "t", "cars/train/audi", "cars/train/bmw", images=5)
    write(root, "flowers/images/rose", "flowers/images/tulip", "notes/images")
    (root / "flowers/cover.jpg").touch()
    tasks = tasks_of(root)
    assert {name: task.class_names for name, task in tasks.items()} == {
        "cars": ("audi", "bmw"),
        "flowers": ("rose", "tulip"),
    }
    assert "1 image directly in flowers" in messages(tasks["flowers"], "warning")
    assert "4 images in notes of t" in messages(tasks["cars"], "warning")


def test_an_image_beside_the_data_of_a_task_does_not_hide_it(tmp_path):
    root = write(tmp_path / "t", "pets/data/train/cat", "pets/data/train/dog", images=5)
    write(root, "cars/train/audi", "cars/train/bmw", images=5)
    (root / "pets/cover.jpg").touch()
    tasks = tasks_of(root)
    assert list(tasks) == ["cars", "pets"]
    assert "1 image directly in pets" in messages(tasks["pets"], "warning")


def test_folders_of_class_folders_are_asked_about_some_folders_down(tmp_path):
    root = write(tmp_path / "two", "a/images/cat", "a/images/dog", "b/images/x", "b/images/y")
    with pytest.raises(DataError, match="a: cat, dog; b: x, y"):
        tasks_of(root)
    tasks = tasks_of(root, ["a", "b"])
    assert [task.class_names for task in tasks.values()] == [("cat", "dog"), ("x", "y")]
    whole = tasks_of(root, ["two"])["two"]
    assert "2 classes are learnt, not 4" in messages(whole, "warning")


def test_what_lies_beside_the_classes_of_a_wrapped_split_is_counted(tmp_path):
    inside = [f"{split}/images/{name}" for split in ("train", "val") for name in ("cat", "dog")]
    root = write(tmp_path / "t", *inside, "val")
    write(root, "val/extra", images=3)
    for file in ("val/1.heic", "train/2.heic", "train/9.jpg"):
        (root / file).touch()
    (root / "val/gone.jpg").symlink_to("nowhere")
    (task,) = tasks_of(root).values()
    assert (task.class_names, sizes(task)) == (("cat", "dog"), {"train": 8, "val": 8})
    said = messages(task, "warning")
    for part in (
        "4 images directly in val",
        "3 images in extra of val",
        "in val: 1 .heic",
        "in train: 1 .heic",
        "1 image directly in train",
        "links of val lead nowhere: gone.jpg",
    ):
        assert part in said


def test_a_class_with_images_and_an_inner_folder_counts_as_two(tmp_path):
    (task,) = tasks_of(write(tmp_path / "t", "cat", "cat/summer", "dog")).values()
    assert "2 classes are learnt, not 3" in messages(task, "warning")
