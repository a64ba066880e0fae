"""Predictions of many images: the most probable classes, files of rows, what is kept in memory."""

import csv
import io
import itertools
import json
import shutil
from pathlib import Path

import pytest
from suites import write_task
from typer.testing import CliRunner
from written_bundles import write_bundle

from orchestrator.bundle.bundle import load_bundle
from orchestrator.cli import app

NAMES = ("red, dark", 'the "green" one', "blue")


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory) -> Path:
    root = write_task(tmp_path_factory.mktemp("suite") / "colours")
    lines = [f"{label}\t{name}" for label, name in enumerate(NAMES)]
    (root / "classes.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def bundle(task_folder, tmp_path_factory) -> Path:
    return write_bundle("linear", task_folder, tmp_path_factory.mktemp("trained"))[0]


@pytest.fixture(scope="module")
def images(task_folder) -> Path:
    return task_folder / "images" / "test"


def run(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], catch_exceptions=False)


def test_the_most_probable_classes_come_first_and_are_all_there_are(bundle, images):
    rows = json.loads(run(bundle, images, "--json", "--top", 3).stdout)
    plain = json.loads(run(bundle, images, "--json").stdout)
    assert [{**row, "top": row["top"][:1]} for row in rows] == plain
    for row in rows:
        best, *_ = row["top"]
        assert best == {name: row[name] for name in ("label", "class_name", "probability")}
        probabilities = [one["probability"] for one in row["top"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1)
        assert [NAMES[one["label"]] for one in row["top"]] == [
            one["class_name"] for one in row["top"]
        ]


def test_more_classes_than_there_are_is_said(bundle, images):
    done = run(bundle, images / "000000.png", "--top", 9, "--json")
    assert len(json.loads(done.stdout)[0]["top"]) == 3
    assert "there are 3 classes, all are shown" in done.stderr


def test_the_table_has_a_column_for_each_of_the_most_probable(bundle, images):
    head, row = run(bundle, images / "000000.png", "--top", 2).stdout.splitlines()
    (found,) = load_bundle(bundle).predict(images / "000000.png", top=2)
    assert head.split("  ")[-1].strip() == "probability"
    for one in found.top:
        assert f"{one.class_name}" in row and f"{one.probability:.3f}" in row


def test_a_csv_file_is_read_back_as_it_was_predicted(bundle, images, tmp_path):
    broken = tmp_path / "broken, too.png"
    broken.write_bytes(b"no image")
    target = tmp_path / "rows.csv"
    done = run(bundle, images, broken, "--top", 2, "--csv", target)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"written to {target}: 25 rows" in done.stderr.replace("\n", " ")
    with target.open(newline="") as file:
        *rows, last = csv.DictReader(file)
    found = load_bundle(bundle).predict(sorted(images.iterdir()), top=2)
    for row, one in zip(rows, found, strict=True):
        second = one.top[1]
        assert row == {
            "image": one.image,
            "label": str(one.label),
            "class_name": one.class_name,
            "probability": str(one.probability),
            "true_class": "",
            "error": "",
            "label_2": str(second.label),
            "class_name_2": second.class_name,
            "probability_2": str(second.probability),
        }
    assert last["image"] == str(broken)
    assert "is not an image" in last["error"]
    assert last["label"] == ""
    on_stdout = run(bundle, images, broken, "--top", 2, "--csv", "-")
    assert list(csv.DictReader(io.StringIO(on_stdout.stdout))) == [*rows, last]


def test_a_csv_file_is_written_whole_or_not_at_all(bundle, images, tmp_path):
    target = tmp_path / "rows.csv"
    target.write_text("as before")
    for suffix in (".yaml", ".safetensors"):
        shutil.copy(bundle.with_suffix(suffix), tmp_path / f"colours{suffix}")
    (tmp_path / "colours.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match="is not the file that"):
        run(tmp_path / "colours.yaml", images, "--csv", target)
    assert target.read_text() == "as before"
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(ValueError, match="there is no folder"):
        run(bundle, images, "--csv", tmp_path / "nowhere" / "rows.csv")
    with pytest.raises(ValueError, match="both write to stdout"):
        run(bundle, images, "--csv", "-", "--json")


def test_a_folder_of_class_folders_is_judged_and_another_is_not(bundle, images, tmp_path):
    for label, name in enumerate(NAMES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        shutil.copy(images / f"{label:06}.png", tmp_path / "photos" / name)
    done = run(bundle, tmp_path / "photos", "--json")
    assert [row["true_class"] for row in json.loads(done.stdout)] == sorted(NAMES)
    assert "mean per-class accuracy" in done.stderr
    (tmp_path / "photos" / "bleu").mkdir()
    shutil.copy(images / "000003.png", tmp_path / "photos" / "bleu")
    done = run(bundle, tmp_path / "photos", "--json")
    assert len(json.loads(done.stdout)) == 4
    assert "mean per-class accuracy" not in done.stderr
    assert "note: no accuracy: " in done.stderr
    assert "1 folder (bleu) of images is no class" in done.stderr
    assert "accuracy" not in run(bundle, images).stderr


def test_images_without_a_class_are_classified_where_no_other_can_be_read(bundle, images, tmp_path):
    """What could be classified was; it has no accuracy."""
    (tmp_path / "photos" / NAMES[0]).mkdir(parents=True)
    (tmp_path / "photos" / NAMES[0] / "broken.png").write_bytes(b"broken")
    shutil.copy(images / "000000.png", tmp_path / "photos")
    done = run(bundle, tmp_path / "photos")
    assert done.exit_code == 1
    assert "error: 1 of 2 images could not be classified" in done.stderr
    assert "nothing was measured" not in done.stderr


def test_images_are_read_only_a_little_ahead(bundle, images):
    endless = itertools.repeat(images / "000000.png")
    found = list(itertools.islice(load_bundle(bundle).predict_each(endless), 100))
    assert len({one.image for one in found}) == 1
