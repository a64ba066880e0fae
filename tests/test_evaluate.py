"""What a bundle is worth on labelled images: the numbers, which images, what is refused."""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from suites import write_pictures, write_task
from typer.testing import CliRunner
from written_bundles import write_bundle

from orchestrator.bundle.bundle import load_bundle, read_bundle, save_bundle
from orchestrator.bundle.evaluation import Evaluation, Tally
from orchestrator.bundle.prediction import Candidate, Prediction
from orchestrator.cli import app
from orchestrator.data.cache import task_fingerprint
from orchestrator.data.images import read
from orchestrator.data.labelled_images import labelled_images
from orchestrator.data.task import DataError, Split
from orchestrator.data.vtab import read_vtab_task
from orchestrator.support.uncertainty import accuracy_text
from orchestrator.training.backbone import image_transform

NAMES = ("red, dark", 'the "green" one', "=blue")
"""Of classes: what a CSV file and a spreadsheet could stumble over."""


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory) -> Path:
    root = write_task(tmp_path_factory.mktemp("suite") / "colours", noise=150)
    lines = [f"{label}\t{name}" for label, name in enumerate(NAMES)]
    (root / "classes.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def bundle(task_folder, tmp_path_factory) -> Path:
    """Trained on these images, as a sweep writes it."""
    folder = tmp_path_factory.mktemp("trained")
    description, _ = write_bundle("linear", task_folder, folder)
    written = read_bundle(description)
    fingerprint = task_fingerprint(read_vtab_task(task_folder), image_transform(written.backbone))
    tensors = folder / "trained.safetensors"
    path, *_ = save_bundle(
        replace(written, data_fingerprint=fingerprint), folder / "whole", tensors
    )
    return path


def class_folders(task_folder: Path, split: str, to: Path) -> Path:
    """The images of a split as people keep them, under names of their own."""
    for example in read_vtab_task(task_folder).splits[split].examples:
        folder = to / NAMES[example.label]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(example.path, folder / f"photo {example.line}.png")
    return to


def run(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def evaluation_of(true: list[int], found: list[int], num_classes: int) -> Evaluation:
    tally = Tally()
    for label, predicted in zip(true, found, strict=True):
        best = Candidate(label=predicted, class_name="", probability=1.0)
        tally.add(
            label,
            Prediction(image="", label=predicted, class_name="", probability=1, top=(best,)),
        )
    names = [f"c{label}" for label in range(num_classes)]
    return tally.evaluation(names, metric="top1", stage="search")


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_every_measure_is_that_of_scikit_learn(pairs):
    true, found = (list(side) for side in zip(*pairs, strict=True))
    ours = evaluation_of(true, found, num_classes=5)
    assert ours.accuracy == pytest.approx(metrics.accuracy_score(true, found))
    balanced = metrics.balanced_accuracy_score(true, found)
    assert ours.mean_per_class_accuracy == pytest.approx(balanced)
    macro = metrics.f1_score(true, found, average="macro", zero_division=0)
    assert ours.macro_f1 == pytest.approx(macro)
    expected = metrics.confusion_matrix(true, found, labels=range(5))
    np.testing.assert_array_equal(ours.confusion, expected)
    by_class = metrics.precision_recall_fscore_support(
        true, found, labels=range(5), zero_division=np.nan
    )
    for name, column in zip(("precision", "accuracy", "f1"), by_class[:3], strict=True):
        mine = [getattr(one, name) for one in ours.classes]
        np.testing.assert_allclose([np.nan if x is None else x for x in mine], column)
    assert [one.num_images for one in ours.classes] == by_class[3].tolist()


def test_pairs_are_named_by_how_often_they_are_confused():
    found = evaluation_of([0, 0, 0, 1, 1, 2], [1, 1, 0, 0, 1, 2], num_classes=3)
    pairs = [(one.true_class, one.predicted_class, one.num_images) for one in found.most_confused()]
    assert pairs == [("c0", "c1", 2), ("c1", "c0", 1)]


def test_the_accuracy_is_the_one_that_training_found(bundle, task_folder, tmp_path):
    recorded = read_bundle(bundle).val_accuracy
    assert recorded is not None and 0 < recorded < 1
    folder = class_folders(task_folder, "val", tmp_path / "photos")
    model = load_bundle(bundle)
    for where in (folder, task_folder / "val200.txt"):
        assert model.evaluate(where).accuracy == recorded
    (tmp_path / "unzipped").mkdir()
    folder.rename(tmp_path / "unzipped" / "photos")
    assert model.evaluate(tmp_path / "unzipped").accuracy == recorded


def test_the_command_says_in_json_and_csv_what_python_does(bundle, task_folder, tmp_path):
    folder = class_folders(task_folder, "test", tmp_path / "photos")
    rows = tmp_path / "rows.csv"
    done = run("evaluate", bundle, folder, "--json", "--csv", rows)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    found = load_bundle(bundle).evaluate(folder)
    assert told == {
        "bundle": str(bundle),
        "task": "colours",
        "images": str(folder),
        **json.loads(json.dumps(found.document())),
    }
    assert {
        "num_images", "num_unreadable", "metric", "accuracy", "accuracy_standard_error",
        "accuracy_interval_low", "accuracy_interval_high", "mean_per_class_accuracy", "macro_f1",
        "majority_share", "classes", "confusion", "seen", "unreadable", "notes",
    } == told.keys() - {"bundle", "task", "images"}  # fmt: skip
    assert told["num_images"] == 24
    with rows.open(newline="") as file:
        images = list(csv.DictReader(file))
    assert len(images) == 24
    right = sum(row["class_name"] == row["true_class"] for row in images)
    assert right / 24 == told["accuracy"]
    assert {row["true_class"].lstrip("'") for row in images} == set(NAMES)


def test_the_terminal_shows_how_sure_it_is_every_class_and_what_is_taken_for_what(
    bundle, task_folder, tmp_path
):
    folder = class_folders(task_folder, "val", tmp_path / "photos")
    found = load_bundle(bundle).evaluate(folder)
    for arguments in (["evaluate", bundle, folder], ["predict", bundle, folder]):
        shown = run(*arguments).stdout
        assert f"{found.accuracy_text} %" in shown
        assert f"{found.macro_f1:.4f}" in shown
        lines = [" ".join(line.split()) for line in shown.splitlines()]
        for one in found.classes:
            assert one.accuracy is not None
            sure = accuracy_text(one.accuracy, one.num_images)
            begin = f"{one.class_name} {one.num_images} {one.num_right} {sure} "
            assert sum(line.startswith(begin) for line in lines) == 1
        assert "by true class (rows)" in shown


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", ("warning: ", "24 that it was trained on")),
        ("val", ("warning: ", "24 that it was chosen on")),
        ("test", ("note: none of these files", "24 of 24 are test images of its task")),
    ],
)
def test_images_that_the_bundle_has_seen_are_known_by_their_content(
    split, expected, bundle, task_folder, tmp_path
):
    done = run("evaluate", bundle, class_folders(task_folder, split, tmp_path / "photos"))
    assert done.exit_code == 0
    for text in expected:
        assert text in done.stderr


def test_an_image_in_train_and_val_counts_once(bundle, task_folder, tmp_path):
    copied = shutil.copytree(task_folder, tmp_path / "colours")
    first = copied / "images" / "train" / "000000.png"
    shutil.copy(first, copied / "images" / "val" / "000000.png")
    written = read_bundle(bundle)
    fingerprint = task_fingerprint(read_vtab_task(copied), image_transform(written.backbone))
    mixed = replace(written, suite=str(tmp_path), data_fingerprint=fingerprint)
    path, *_ = save_bundle(mixed, tmp_path / "bundle", bundle.with_suffix(".safetensors"))
    done = run("evaluate", path, class_folders(copied, "val", tmp_path / "photos"))
    assert "are 1 that it was trained on and 23 that it was chosen on:" in done.stderr


def test_where_the_images_of_its_task_are_away_nothing_is_claimed(bundle, task_folder, tmp_path):
    folder = class_folders(task_folder, "val", tmp_path / "photos")
    lost = tmp_path / "lost"
    tensors = bundle.with_suffix(".safetensors")
    away = replace(read_bundle(bundle), suite=str(tmp_path / "nowhere"))
    path, *_ = save_bundle(away, lost, tensors)
    done = run("evaluate", path, folder)
    assert "whether the bundle has seen these images is not known" in done.stderr
    done = run("evaluate", path, folder, "--data", task_folder.parent)
    assert "24 that it was chosen on" in done.stderr
    other = replace(read_bundle(bundle), data_fingerprint="of others")
    path, *_ = save_bundle(other, lost, tensors)
    assert "not the images that colours was trained on" in run("evaluate", path, folder).stderr


def test_a_broken_image_counts_nowhere_and_is_named(bundle, task_folder, tmp_path):
    folder = class_folders(task_folder, "val", tmp_path / "photos")
    (folder / NAMES[0] / "broken.png").write_bytes(b"no image")
    (folder / NAMES[1] / "7.heic").write_bytes(b"any")
    done = run("evaluate", bundle, folder, "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["num_images"], told["num_unreadable"]) == (1, 24, 1)
    assert "broken.png" in told["unreadable"][0]["error"]
    assert "error: 1 of 25 images could not be read" in done.stderr
    assert any("1 .heic" in note for note in told["notes"])


KNOWN = ("cat", "dog", "cow")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("cat", "dgo"), "'dgo' 'dog'"),
        (("cat", "dgo"), r"without a folder: 2 classes \(dog, cow\)"),
        (("cat", "dog", "cow", "horse"), r"1 folder \(horse\) of images is no class"),
        (("monday", "tuesday"), r"no folder in it has the name of a class of this bundle \(cat"),
        (("train/cat", "val/cat", "test/cat"), "it holds splits: name the one to measure on.*test"),
        ((".",), "10 images lie in it without class folders"),
        ((), "holds no image that is read here"),
    ],
)
def test_folders_that_are_not_the_classes_are_refused_with_what_would_work(
    folders, message, tmp_path
):
    root = write_pictures(tmp_path / "photos", *folders)
    root.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        labelled_images(root, KNOWN)


def test_what_is_left_out_and_taken_for_a_class_is_said(tmp_path):
    root = write_pictures(tmp_path / "photos", "Cat", "dog/summer", "dog/.hidden", ".")
    found = labelled_images(root, KNOWN)
    assert found.labels == (0,) * 10 + (1,) * 10
    said = "\n".join(found.notes)
    for expected in (
        "10 in .hidden",
        "left out: 10 images beside the class folders",
        "folder 'Cat' is taken for class 'cat'",
        "no folder for 1 class (cow)",
    ):
        assert expected in said


def as_csv(split: Split, folder: Path, labels: Sequence[str]) -> Path:
    lines = [f'{example.file},"{labels[example.label]}"' for example in split.examples]
    path = folder / f"{split.name}-of-{labels[0][:1]}.csv"
    path.write_text("\n".join(["image,label", *lines]).replace('"green"', '""green""'))
    return path


def as_parquet(split: Split, folder: Path) -> Path:
    """As the hub has it, the images inside."""
    images = [{"bytes": example.path.read_bytes(), "path": None} for example in split.examples]
    labels = [NAMES[example.label] for example in split.examples]
    path = folder / "photos.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": labels}), path)
    return path


@pytest.mark.parametrize("form", ["names", "numbers", "parquet"])
def test_a_table_is_measured_on_like_the_folder(form, bundle, task_folder, tmp_path):
    split = read_vtab_task(task_folder).splits["val"]
    if form == "parquet":
        table = as_parquet(split, tmp_path)
    else:
        table = as_csv(split, task_folder, NAMES if form == "names" else ("0", "1", "2"))
    found = load_bundle(bundle).evaluate(table)
    assert (found.accuracy, found.num_images) == (read_bundle(bundle).val_accuracy, 24)
    assert found.seen is not None and found.seen.chosen_on == 24
    said = "\n".join(found.notes)
    assert "with columns image, label" in said
    assert ("labels are the numbers of the classes" in said) == (form == "numbers")


def test_of_a_table_with_splits_test_is_measured_on(tmp_path):
    write_pictures(tmp_path, "cat", "dog")
    table = tmp_path / "photos.csv"
    table.write_text("image,label,split\ncat/0.png,cat,train\ndog/1.png,dog,test\n")
    found = labelled_images(table, KNOWN)
    assert [str(one.path) for one in found.images] == [str(tmp_path / "dog/1.png")]  # type: ignore[union-attr]
    assert any("1 of 2 rows" in note for note in found.notes)
    table.write_text("image,label,split\ncat/0.png,cat,train\n")
    with pytest.raises(DataError, match="names no row as test"):
        labelled_images(table, KNOWN)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("cat/0.png,cta", r"photos\.csv:3: label 'cta' is no class of this bundle"),
        ("cat/0.png,", r"photos\.csv:3: 'cat/0\.png' has no label"),
        ("../0.png,cat", r"photos\.csv:3: .* leads out of"),
        ("cat/0.png", r"photos\.csv:3: has 1 fields"),
    ],
)
def test_a_wrong_row_of_a_table_is_named(row, message, tmp_path):
    write_pictures(tmp_path, "cat")
    (tmp_path / "photos.csv").write_text(f"image,label\ncat/1.png,cat\n{row}\n")
    with pytest.raises(DataError, match=message):
        labelled_images(tmp_path / "photos.csv", KNOWN)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat/0.png 3", r"list\.txt:2: label 3 is out of range: 0 to 2"),
        ("cat/0.png cat", r"list\.txt:2: label 'cat' is not an integer"),
        ("../0.png 1", r"list\.txt:2: .* leads out of"),
        ("/etc/passwd 1", r"list\.txt:2: .* must be relative"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(line, message, tmp_path):
    write_pictures(tmp_path, "cat")
    (tmp_path / "list.txt").write_text(f"cat/1.png 0\n{line}\n")
    with pytest.raises(DataError, match=message):
        labelled_images(tmp_path / "list.txt", KNOWN)


def test_a_list_leads_to_no_image_outside_of_its_folder(tmp_path):
    write_pictures(tmp_path, "elsewhere", "lists/cat")
    (tmp_path / "lists/cat/out.png").symlink_to(tmp_path / "elsewhere/0.png")
    (tmp_path / "lists/list.txt").write_text("cat/1.png 0\ncat/out.png 0\n")
    _, out = labelled_images(tmp_path / "lists/list.txt", KNOWN).images
    with pytest.raises(DataError, match="leads out of the folder"):
        read(out)  # type: ignore[arg-type]


def test_an_image_that_stands_twice_in_a_table_is_named(bundle, tmp_path):
    write_pictures(tmp_path, "images", images=4)
    lines = [f"images/{row % 3}.png,{row % 2}" for row in range(4)]
    (tmp_path / "new.csv").write_text("\n".join(["image,label", *lines]))
    found = labelled_images(tmp_path / "new.csv", read_bundle(bundle).class_names)
    assert [note for note in found.notes if "'images/0.png' stands here twice" in note]


@pytest.mark.parametrize("path", ["elsewhere/0.png", "/photos/0.png", "../0.png"])
def test_what_helps_a_table_to_measure_on_is_not_data(path, bundle, tmp_path):
    """There --data says where the images are that the bundle was made with."""
    (tmp_path / "new.csv").write_text(f"image,label\n{path},0\n")
    with pytest.raises(DataError, match="put the table beside them") as refused:
        labelled_images(tmp_path / "new.csv", read_bundle(bundle).class_names)
    assert "--data" not in str(refused.value)
