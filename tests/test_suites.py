"""What the first argument of `orchestrator sweep` may be."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from PIL import Image
from suites import write_suite, write_task

from orchestrator.data.split import SplitRule
from orchestrator.data.suites import load_suite, quickstart_folder
from orchestrator.data.task import DataError


@pytest.fixture(autouse=True)
def nowhere(tmp_path_factory, monkeypatch):
    """A working folder and a cache with nothing in them."""
    place = tmp_path_factory.mktemp("nowhere")
    monkeypatch.chdir(place)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(place / "cache"))
    monkeypatch.delenv("ORCHESTRATOR_DATA", raising=False)


def write_fine_grained(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for split in ("train", "val", "test"):
        names = {f"{split}{number}.jpg": number % 2 for number in range(4)}
        (folder / f"{split}.json").write_text(json.dumps(names))
    return folder


def write_photos(root: Path) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(root / name / f"{number}.png")
    return root


def test_a_folder_of_tasks(tmp_path):
    suite = load_suite(str(write_suite(tmp_path / "mine")))
    assert (suite.name, suite.root) == ("mine", tmp_path / "mine")
    assert [task.name for task in suite.tasks] == ["colours_a", "colours_b"]
    assert suite.default_backbone is None


def test_one_task(tmp_path):
    suite = load_suite(str(write_task(tmp_path / "colours")))
    assert [task.name for task in suite.tasks] == ["colours"]


def test_an_image_folder_is_split_with_the_seed(tmp_path):
    root = write_photos(tmp_path / "photos")
    first, second = (load_suite(str(root), rule=SplitRule(seed=seed)) for seed in (0, 1))
    assert [task.layout for task in first.tasks] == ["image_folder"]
    assert second.tasks[0].split_rule[:6] == "seed 1"
    assert first.tasks[0].splits["train"] != second.tasks[0].splits["train"]


def test_tasks_sorted_into_group_folders(tmp_path):
    write_task(tmp_path / "VTAB-1K/Natural/CIFAR100")
    write_task(tmp_path / "VTAB-1K/Specialized/Eurosat")
    write_task(tmp_path / "VTAB-1K/notes/draft")
    suite = load_suite("vtab", data_root=tmp_path)
    assert [task.name for task in suite.tasks] == ["cifar", "eurosat"]


def test_vtab_is_the_official_tasks_that_are_there(tmp_path, caplog):
    for name in ("eurosat", "dtd_10cls", "cifar100"):
        write_task(tmp_path / "vtab-1k" / name)
    suite = load_suite("vtab", data_root=tmp_path)
    assert [task.name for task in suite.tasks] == ["cifar", "eurosat"]
    assert len(suite.missing) == 17
    assert "lacks 17 of 19 tasks" in caplog.text


def test_fgvc_is_found_and_labelled(tmp_path):
    write_fine_grained(tmp_path / "fgvc/CUB_200_2011")
    suite = load_suite("fgvc", data_root=tmp_path)
    assert [(task.name, task.group) for task in suite.tasks] == [("cub", "fine_grained")]


@pytest.mark.parametrize("place", ["argument", "environment", "working folder"])
def test_places_where_suites_are_looked_for(tmp_path, monkeypatch, place):
    write_task(tmp_path / "data/vtab-1k/dtd")
    data_root = tmp_path / "data" if place == "argument" else None
    if place == "environment":
        monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "data"))
    if place == "working folder":
        monkeypatch.chdir(tmp_path)
    assert [task.name for task in load_suite("vtab", data_root=data_root).tasks] == ["dtd"]


def test_a_suite_that_is_nowhere_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError) as caught:
        load_suite("vtab")
    for part in (tmp_path / "elsewhere/vtab-1k", Path.cwd() / "data/vtab-1k", "train800", "--data"):
        assert str(part) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vtba", "unknown suite 'vtba'; did you mean 'vtab'"),
        ("quickstrat", "did you mean 'quickstart'"),
        ("./vtab", "vtab is not a folder"),
        ("/no/such/folder", "/no/such/folder is not a folder"),
    ],
)
def test_what_is_no_suite_is_one_clear_error(name, message):
    with pytest.raises(DataError, match=message):
        load_suite(name)


def test_a_folder_without_tasks_says_what_makes_one(tmp_path):
    (tmp_path / "data.npy").touch()
    with pytest.raises(DataError, match=r"nor class folders with images; .* 1 \.npy"):
        load_suite(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter any folder")
def test_a_folder_that_may_not_be_entered_is_passed_by(tmp_path):
    root = write_suite(tmp_path / "mine")
    (root / "lost+found").mkdir(mode=0)
    assert len(load_suite(str(root)).tasks) == 2
    root.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        load_suite(str(root))
    root.chmod(0o700)


def test_tasks_are_chosen_by_any_of_their_names_in_the_given_order(tmp_path):
    for name in ("cifar", "eurosat", "clevr_dist"):
        write_task(tmp_path / "vtab-1k" / name)
    suite = load_suite("vtab", data_root=tmp_path, tasks=["clevr_distance", "CIFAR-100"])
    assert [task.name for task in suite.tasks] == ["clevr_dist", "cifar"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["eurosta"], "unknown task 'eurosta'; did you mean 'eurosat'"),
        (["dtd"], "task 'dtd' is not in .*; there are: cifar, eurosat"),
        (["cifar", "cifar100"], "'cifar' is named twice"),
        ([], "no task is named"),
    ],
)
def test_a_task_that_is_not_there_is_one_clear_error(tmp_path, tasks, message):
    for name in ("cifar", "eurosat"):
        write_task(tmp_path / "vtab-1k" / name)
    with pytest.raises(DataError, match=message):
        load_suite("vtab", data_root=tmp_path, tasks=tasks)


def test_one_task_under_two_names_is_refused(tmp_path):
    write_suite(tmp_path / "data", names=("cifar", "cifar100"))
    with pytest.raises(DataError, match="both task 'cifar'"):
        load_suite(str(tmp_path / "data"))


def test_faults_in_lists_stop_unless_they_are_asked_for(tmp_path):
    root = write_suite(tmp_path / "mine")
    (root / "colours_b/val200.txt").write_text("images/val/000000.png cat\n")
    with pytest.raises(DataError, match=r"colours_b/val200.txt:1: label 'cat' is not an integer"):
        load_suite(str(root))
    lenient = load_suite(str(root), strict=False)
    assert [len(task.errors()) > 0 for task in lenient.tasks] == [False, True]
    assert len(load_suite(str(root), tasks=["colours_a"]).tasks) == 1


def quickstart_task_names(_: int) -> list[str]:
    return [task.name for task in load_suite("quickstart").tasks]


@pytest.mark.slow
def test_the_quickstart_is_written_once_and_whole():
    """By one of two processes, over what a killed one had left."""
    folder = quickstart_folder()
    left = folder.with_suffix(".part") / "digits"
    left.mkdir(parents=True)
    (left / "train800.txt").write_text("half a li")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(quickstart_task_names, range(2), chunksize=1)
    assert first == second
    assert len(first) == 3 and "digits" in first
    written = folder.stat().st_mtime_ns
    suite = load_suite("quickstart")
    assert (suite.name, suite.default_backbone) == ("quickstart", "vit_quickstart")
    assert folder.stat().st_mtime_ns == written
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="ORCHESTRATOR_CACHE"):
        load_suite("quickstart")
