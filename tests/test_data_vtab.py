"""Reading the community layout: names, labels, and lists that are not what they should be."""

import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from suites import write_task

from orchestrator.data.task import MAX_PROBLEMS_SHOWN, DataError
from orchestrator.data.vtab import LISTS, OFFICIAL_TASKS, VTAB, read_vtab_task


def write_lists(folder: Path, *, train: bytes | str = "a.png 0\nb.png 1\n", **others) -> Path:
    """A task of lists alone: reading opens no image."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"train": train, "val": "c.png 0\nd.png 1\n", "test": "e.png 0\nf.png 1\n", **others}
    for split, content in contents.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / LISTS[split]).write_bytes(data)
    return folder


def test_a_task_is_read_as_its_lists_say(tmp_path):
    task = read_vtab_task(write_task(tmp_path / "colours", num_classes=3, per_class=8))
    assert (task.name, task.group, task.num_classes, task.official) == ("colours", "", 3, False)
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 24,
        "val": 24,
        "trainval": 48,
        "test": 24,
    }
    fifth = task.splits["val"].examples[4]
    assert fifth.path == tmp_path / "colours/images/val/000004.png"
    assert (fifth.label, fifth.line) == (1, 5)
    assert task.problems == ()


def test_official_tasks_are_the_nineteen_of_the_benchmark():
    groups = [task.group for task in OFFICIAL_TASKS.values()]
    assert [groups.count(g) for g in ("natural", "specialized", "structured")] == [7, 4, 8]
    assert sum(task.num_classes for task in OFFICIAL_TASKS.values()) == 940
    assert sum(task.counts["test"] for task in OFFICIAL_TASKS.values()) == 387_904


@pytest.mark.parametrize(
    ("folder", "task"),
    [
        ("cifar", "cifar"),
        ("cifar100", "cifar"),
        ("CIFAR100", "cifar"),
        ("oxford_pet", "oxford_iiit_pet"),
        ("oxford_pets", "oxford_iiit_pet"),
        ("Patch_Camelyon", "patch_camelyon"),
        ("Retinopathy", "diabetic_retinopathy"),
        ("Clevr_Dist", "clevr_dist"),
        ("clevr_distance", "clevr_dist"),
        ("Dsprites_loc", "dsprites_loc"),
        ("vtab-dsprites_orientation", "dsprites_ori"),
        ("smallnorb_azimuth", "smallnorb_azi"),
        ("photos_of_pets", None),
    ],
)
def test_folder_names_of_other_repositories_mean_the_official_task(folder, task):
    assert VTAB.official_name(folder) == task


def test_a_cut_official_task_is_usable_but_said_to_differ(tmp_path):
    task = read_vtab_task(write_lists(tmp_path / "CIFAR100"))
    assert (task.name, task.group, task.num_classes) == ("cifar", "natural", 100)
    assert task.errors() == []
    assert [(p.split, p.severity) for p in task.problems] == [
        ("train", "warning"),
        ("val", "warning"),
        ("test", "warning"),
    ]
    assert "official list has 10,000" in task.problems[-1].message


def test_classes_and_group_may_be_described(tmp_path):
    folder = write_lists(tmp_path / "own")
    (folder / "classes.txt").write_text("0\tcat\n1\t犬 dog\n2\tnever seen\n")
    (folder / "task.json").write_text('{"group": "specialized", "num_classes": 3}')
    task = read_vtab_task(folder)
    assert task.class_names == ("cat", "犬 dog", "never seen")
    assert (task.num_classes, task.group, task.problems) == (3, "specialized", ())


def test_paths_may_hold_spaces_and_any_script(tmp_path):
    line = "images/Ünïcode 画像 (1).png 1\r\n"
    task = read_vtab_task(write_lists(tmp_path / "t", train="\ufeff" + "a.png 0\n" + line))
    assert task.splits["train"].examples[1].file == "images/Ünïcode 画像 (1).png"
    assert task.problems == ()


BROKEN_LISTS = {
    "no label": ("train", "a.png 0\nb.png\n", 2, "expected `relative/path label`"),
    "no integer": ("val", "c.png cat\n", 1, "label 'cat' is not an integer"),
    "foreign digits": ("val", "c.png ٣\n", 1, "is not an integer"),
    "endless label": ("val", f"c.png {'9' * 5000}\n", 1, "is not an integer"),
    "negative": ("test", "e.png 0\nf.png -1\n", 2, "label -1 is out of range: 0 to 1"),
    "absolute": ("train", "/etc/passwd 0\nb.png 1\n", 1, "must be relative"),
    "climbs": ("test", "x/../../up.png 0\n", 1, "leads out of the task's folder"),
    "climbs on Windows": ("test", "x\\..\\..\\up.png 0\n", 1, "leads out of the task's folder"),
    "null": ("train", b"a\0.png 0\nb.png 1\n", 1, "null character"),
    "not text": ("train", b"\xff\xfe.png 0\nb.png 1\n", 1, "is not UTF-8"),
    "long": ("train", f"{'a' * 5000}.png 0\nb.png 1\n", 1, "longer than 4096"),
    "empty": ("val", "", 0, "names no image"),
    "in two splits": ("test", "e.png 0\na.png 1\n", 2, "'a.png' is in test and in train"),
    "in two splits, dotted": ("val", "c.png 0\n.//a.png 1\n", 2, "is in val and in train"),
    "trainval has test": ("trainval", "a.png 0\ne.png 0\n", 2, "is in trainval and in test"),
    "stray label": ("val", "c.png 0\nd.png 700\n", 2, "label 700"),
}


@pytest.mark.parametrize("case", BROKEN_LISTS)
def test_a_broken_list_is_named_with_its_line(tmp_path, case):
    split, content, line, message = BROKEN_LISTS[case]
    task = read_vtab_task(write_lists(tmp_path / "task", **{split: content}))
    (problem, *_) = [p for p in task.errors() if message in p.message]
    assert (problem.split, problem.line) == (split, line)
    assert problem.file == tmp_path / "task" / LISTS[split]
    assert f"{LISTS[split]}:{line}" in str(problem) or line == 0


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_list_is_an_error_of_its_split(tmp_path, split):
    folder = write_lists(tmp_path / "task")
    (folder / LISTS[split]).unlink()
    (problem,) = read_vtab_task(folder).errors()
    assert (problem.split, problem.file.name) == (split, LISTS[split])


def test_trainval_is_train_and_val_where_its_list_is_missing(tmp_path):
    task = read_vtab_task(write_lists(tmp_path / "task"))
    files = [example.file for example in task.splits["trainval"].examples]
    assert files == ["a.png", "b.png", "c.png", "d.png"]


def test_a_trainval_of_other_images_is_said(tmp_path):
    task = read_vtab_task(write_lists(tmp_path / "task", trainval="a.png 0\nnew.png 1\n"))
    (problem,) = task.problems
    assert "3 of their images are missing, 1 are in neither" in problem.message


BROKEN_DESCRIPTIONS = {
    "task.json": ['{"num_classes": 1e9}', '{"num_classes": -2}', "[1]", "{", "[" * 100_000],
    "classes.txt": ["0 cat\n", "0\tcat\n0\tdog\n", "0\tcat\n2\tdog\n", "cat\ndog\n", "0\t \n"],
}


@pytest.mark.parametrize(
    ("name", "content"), [(n, c) for n, cs in BROKEN_DESCRIPTIONS.items() for c in cs]
)
def test_a_broken_description_is_an_error(tmp_path, name, content):
    folder = write_lists(tmp_path / "task")
    (folder / name).write_text(content)
    assert any(p.file.name == name for p in read_vtab_task(folder).errors())


def test_descriptions_that_contradict_each_other_are_an_error(tmp_path):
    folder = write_lists(tmp_path / "task")
    (folder / "classes.txt").write_text("0\tcat\n1\tdog\n")
    (folder / "task.json").write_text('{"num_classes": 3}')
    (problem,) = read_vtab_task(folder).errors()
    assert "names 2 classes, but task.json says 3" in problem.message


def test_a_list_that_is_a_link_out_of_the_task_is_not_followed(tmp_path):
    folder = write_lists(tmp_path / "task")
    (tmp_path / "secret.txt").write_text("a.png 0\n")
    (folder / LISTS["val"]).unlink()
    (folder / LISTS["val"]).symlink_to(tmp_path / "secret.txt")
    (problem,) = read_vtab_task(folder).errors()
    assert "leads out of the task's folder" in problem.message


def test_a_folder_that_cannot_be_printed_is_refused(tmp_path):
    with pytest.raises(DataError, match="name that can be printed"):
        read_vtab_task(write_lists(tmp_path / "evil\x1b[2Jname"))


def test_very_many_bad_lines_make_few_problems(tmp_path):
    task = read_vtab_task(write_lists(tmp_path / "task", train=b"bad\n" * 300_000))
    of_train = [p for p in task.problems if p.split == "train"]
    assert len(of_train) == MAX_PROBLEMS_SHOWN + 1
    assert "299,981 more" in of_train[-1].message  # with the one that the list names no image


def test_a_trial_gets_a_small_task_without_final_splits(tmp_path):
    long_test = "".join(f"images/test/{number:06}.jpg 1\n" for number in range(20_000))
    task = read_vtab_task(write_lists(tmp_path / "task", test=long_test)).for_search()
    assert set(task.splits) == {"train", "val"}
    copy = pickle.dumps(task)
    assert len(copy) < 2_000
    assert pickle.loads(copy) == task


paths = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=30
).filter(lambda path: ".." not in path and path[0] not in "/\\\ufeff")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(paths, st.integers(0, 9), min_size=1, max_size=20))
def test_what_is_written_is_read(tmp_path_factory, labels):
    folder = tmp_path_factory.mktemp("lists") / "task"
    lines = "".join(f"{path} {label}\n" for path, label in labels.items())
    task = read_vtab_task(write_lists(folder, train=lines))
    assert [(e.file, e.label) for e in task.splits["train"].examples] == [*labels.items()]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_named(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("lists") / "task"
    task = read_vtab_task(write_lists(folder, train=content))
    assert task.splits["train"].examples or task.errors(["train"])
    for example in task.splits["train"].examples:
        assert (folder / example.file).resolve().is_relative_to(folder.resolve())
