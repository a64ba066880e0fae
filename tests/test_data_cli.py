"""`orchestrator data`, for people and for programs."""

import json

import pytest
from suites import write_pictures, write_suite
from typer.testing import CliRunner

from orchestrator.cli.data import app


@pytest.fixture
def suite(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    return write_suite(tmp_path / "mine")


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_sound_suite_is_said_to_be_sound(suite):
    done = run("check", suite)
    assert done.exit_code == 0
    assert "2 tasks, 144 images: 0 errors, 0 warnings" in done.stdout


def test_every_fault_is_one_line_with_its_place(suite):
    (suite / "colours_a/images/val/000004.png").write_bytes(b"[red]no image[/]")
    lists = suite / "colours_b/test.txt"
    lists.write_text(lists.read_text() + "images/test/[bold]gone.png 1\n")
    done = run("check", suite)
    assert done.exit_code == 2
    lines = [line for line in done.stdout.splitlines() if line.startswith("error")]
    assert f"{suite}/colours_a/val200.txt:5: " in lines[0]
    assert f"{suite}/colours_b/test.txt:25: 'images/test/[bold]gone.png' cannot be read" in lines[1]
    assert "2 errors" in done.stdout


def test_faults_as_json(suite):
    (suite / "colours_b/val200.txt").unlink()
    done = run("check", suite, "--json")
    assert done.exit_code == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["file"] == f"{suite}/colours_b/val200.txt"
    assert (problem["task"], problem["severity"], problem["line"]) == ("colours_b", "error", 0)


def test_what_was_understood_is_shown_before_the_faults(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    root = write_pictures(tmp_path / "photos", "[red]cat", "dog")
    write_pictures(root, "dog/more", "_old", images=5)
    done = run("check", root, "--split", "50/30/20", "--split-seed", 4)
    assert done.exit_code == 0
    for line in (
        "photos: 2 classes",
        "splits ours (seed 4, train/val/test 0.5/0.3/0.2 of each class): train 13, val 7, test 5",
        "classes (train/val/test): [red]cat 5/3/2, dog 8/4/3",
        "largest class: 61.5 % of train (dog), 57.1 % of val (dog), 60.0 % of test (dog)",
        "left out: images in what is hidden or made by programs: 5 in _old",
    ):
        assert line in done.stdout
    (facts,) = json.loads(run("check", root, "--json").stdout)["tasks"]
    assert facts["images"] == {"train": 15, "val": 5, "test": 5}
    assert facts["classes"][0] == {"name": "[red]cat", "train": 6, "val": 2, "test": 2}
    assert facts["split_rule"].startswith("seed 0")


def test_an_impossible_split_is_refused(tmp_path):
    done = run("check", tmp_path, "--split", "60/30")
    assert isinstance(done.exception, ValueError)
    assert "60/20/20" in str(done.exception)


def test_one_task_can_be_checked_alone(suite):
    (suite / "colours_b/val200.txt").unlink()
    assert run("check", suite, "--tasks", "colours_a").exit_code == 0
    assert run("check", suite, "--tasks", "colours_b", "--tasks", "colours_a").exit_code == 2


def test_list_shows_what_is_there(suite):
    (suite / "colours_b/val200.txt").unlink()
    done = run("list", suite, "--json")
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert [(row["task"], row["state"], row["train"]) for row in rows] == [
        ("colours_a", "complete", 24),
        ("colours_b", "faulty", 24),
    ]
    assert "colours_b" in run("list", suite).stdout


def test_list_without_a_suite_says_what_is_not_there(tmp_path, monkeypatch):
    """Without a place for the quickstart's images, no suite is there at all."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "file"))
    done = run("list", "--json")
    assert done.exit_code == 0
    states = {row["suite"]: row["state"] for row in json.loads(done.stdout)}
    assert states == {"quickstart": "not found", "vtab": "not found", "fgvc": "not found"}
    assert "suite 'vtab' is not on this machine" in run("list").stdout
