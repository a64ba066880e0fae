"""A bundle works where nothing of a sweep is installed, says what it is, and cannot be swapped."""

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import onnxruntime
import pandas
import pytest
import torch
from hub_folders import TINY_FAMILIES, tiny_of_family
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_model_name
from plans import make_plan, make_record
from suites import write_task
from typer.testing import CliRunner
from written_bundles import CONFIGS, write_bundle

from orchestrator.bundle.bundle import (
    BUNDLE_SUFFIXES,
    load_bundle,
    read_bundle,
    save_bundle,
)
from orchestrator.bundle.card import model_card
from orchestrator.bundle.prediction import Prediction
from orchestrator.bundle.retrain import train_again
from orchestrator.bundle.torch_program import save_program
from orchestrator.cli import app
from orchestrator.data.cache import task_fingerprint
from orchestrator.data.image_paths import Unreadable
from orchestrator.data.vtab import read_vtab_task
from orchestrator.support.yaml_io import parse_yaml
from orchestrator.tracking.backend import TrackingError
from orchestrator.tracking.mlflow.registry import model_name, register_winner
from orchestrator.tracking.reconcile import reconcile, register_winners
from orchestrator.training.backbone import image_transform
from orchestrator.training.numerics import Engine

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6) | st.text(
    "ab:/~.3A ", min_size=1, max_size=6
)


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory) -> Path:
    return write_task(tmp_path_factory.mktemp("suite") / "colours")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_bundle_made_on_a_gpu_is_trained_and_used_where_there_is_none(
    task_folder, tmp_path, caplog
):
    description, _ = write_bundle("linear", task_folder, tmp_path)
    bundle = read_bundle(description)
    fingerprint = task_fingerprint(read_vtab_task(task_folder), image_transform(bundle.backbone))
    on_a_gpu = replace(
        bundle,
        device="NVIDIA H200",
        data_fingerprint=fingerprint,
        engine=Engine(precision="bf16"),
    )
    accuracy = train_again(on_a_gpu, data=None, weights=None)
    assert 0 < accuracy <= 1
    assert "trained on NVIDIA H200, which is not here: training on the CPU instead" in caplog.text
    save_bundle(on_a_gpu, tmp_path / "gpu", tmp_path / "trained.safetensors")
    model = load_bundle(tmp_path / "gpu" / description.name, device=None)
    image = next((task_folder / "images" / "test").iterdir())
    assert model.predict([image]) == load_bundle(description).predict([image])
    with pytest.raises(ValueError, match="there are no CUDA devices here; use --device cpu"):
        load_bundle(description, device="cuda:1")
    with pytest.raises(ValueError, match="unknown device 'cdua'; did you mean 'cuda'"):
        load_bundle(description, device="cdua")


@pytest.mark.parametrize("method", CONFIGS)
def test_a_loaded_bundle_is_the_trained_model_and_needs_no_images(method, task_folder, tmp_path):
    path, trial = write_bundle(method, task_folder, tmp_path)
    assert_is_trained_model(load_bundle(path), trial)


def assert_is_trained_model(loaded, trial):
    pixels = trial.load_pixels("val")
    images = pixels.normalised(torch.arange(len(pixels)))
    assert trial.model is not None
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), trial.model.eval()(images))


@pytest.mark.parametrize("architecture", TINY_FAMILIES)
def test_a_bundle_is_saved_and_loaded_on_every_family(architecture, task_folder, tmp_path):
    backbone = tiny_of_family(architecture, tmp_path / "model")
    path, trial = write_bundle("vpt", task_folder, tmp_path / "trained", backbone=backbone)
    loaded = load_bundle(path)
    assert_is_trained_model(loaded, trial)
    assert save_program(loaded, tmp_path / "program.pt2") < 1e-4


ELSEWHERE = """
import json, sys

from importlib.machinery import PathFinder

class Elsewhere(PathFinder):
    absent = {missing}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in cls.absent:
            return None
        return super().find_spec(name, path, target)

sys.meta_path = [Elsewhere if finder is PathFinder else finder for finder in sys.meta_path]
from orchestrator.bundle.bundle import load_bundle
predictions = load_bundle({path!r}).predict({images!r})
print(json.dumps([p.label for p in predictions]))
"""
ABSENT = {
    "ray", "optuna", "mlflow", "pyarrow", "sklearn", "scipy", "pandas", "matplotlib", "typer",
    "rich", "psutil", "sqlalchemy",
}  # fmt: skip


@pytest.mark.slow
def test_a_bundle_predicts_where_only_torch_and_timm_are_installed(task_folder, tmp_path):
    path, _ = write_bundle("spt", task_folder, tmp_path)
    images = [str(file) for file in sorted((task_folder / "images" / "test").iterdir())[:6]]
    script = ELSEWHERE.format(missing=ABSENT, path=str(path), images=images)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    here = [prediction.label for prediction in load_bundle(path).predict(images)]
    assert json.loads(done.stdout) == here


@pytest.fixture(scope="module")
def gated(task_folder, tmp_path_factory) -> Path:
    return write_bundle("gatevpt", task_folder, tmp_path_factory.mktemp("gated"))[0]


@pytest.fixture(scope="module")
def mixed(task_folder, tmp_path_factory) -> Path:
    """A folder as users have them: two good images among what is none, hidden or not read."""
    folder = tmp_path_factory.mktemp("mixed")
    first, second, *_ = sorted((task_folder / "images" / "test").iterdir())
    shutil.copy(first, folder / "0.png")
    (folder / "1.png").write_bytes(first.read_bytes()[:-30])
    os.mkfifo(folder / "2.png")
    (folder / "3.png").symlink_to("/dev/zero")
    (folder / "4.png").symlink_to("nowhere.png")
    (folder / "5.png").touch()
    shutil.copy(second, folder / "[red]6\x1b[31m.png")
    (folder / "7.heic").write_bytes(bytes(4) + b"ftypheic")
    (folder / "loop").symlink_to(folder)
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(first, folder / ".ipynb_checkpoints" / "0-checkpoint.png")
    return folder


def predicted(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], catch_exceptions=False)


def test_one_broken_image_costs_no_other_and_is_named(gated, mixed):
    done = predicted(gated, mixed, "--json")
    found = {Path(one["image"]).name: one for one in json.loads(done.stdout)}
    good = [name for name, one in found.items() if "class_name" in one]
    assert good == ["0.png", "[red]6\x1b[31m.png"]
    reasons = {name: one["error"] for name, one in found.items() if name not in good}
    assert list(reasons) == ["1.png", "2.png", "3.png", "4.png", "5.png"]
    for name, reason in (
        ("1.png", "is a broken image"),
        ("2.png", "is a pipe"),
        ("3.png", "is a device"),
        ("4.png", "No such file"),
        ("5.png", "is empty"),
    ):
        assert reason in reasons[name]
        assert name in reasons[name]
    assert done.exit_code == 1
    assert "5 of 7 images could not be classified" in done.stderr
    assert "1 .heic" in done.stderr
    assert "1 in .ipynb_checkpoints" in done.stderr


def test_the_table_shows_every_name_in_full_and_errors_in_their_place(gated, mixed, task_folder):
    long = mixed / ("x" * 200 + ".png")
    done = predicted(gated, mixed / "[red]6\x1b[31m.png", mixed / "1.png", long)
    _, odd, broken, missing = done.stdout.splitlines()
    assert "[red]6\\x1b[31m.png" in odd
    assert "  error: " in broken
    assert str(long) in missing
    assert "No such file" in missing


def test_where_no_image_can_be_classified_the_exit_code_is_two(gated, mixed, tmp_path):
    (tmp_path / "notes.txt").touch()
    done = predicted(gated, mixed / "1.png", tmp_path, "--json")
    assert done.exit_code == 2
    assert "none of 2 images could be classified" in done.stderr
    assert "holds no image" in json.loads(done.stdout)[1]["error"]


def test_in_python_a_bad_file_is_raised_or_given_in_its_place(gated, mixed):
    model = load_bundle(gated)
    files = [mixed / "0.png", mixed / "1.png", mixed / "0.png"]
    with pytest.raises(ValueError, match=r"1\.png' is a broken image"):
        model.predict(files)
    first, broken, again = model.predict_each(files, batch_size=2)
    assert isinstance(broken, Unreadable)
    assert [first] == model.predict(str(files[0]))
    assert isinstance(again, Prediction)
    assert again.probability == pytest.approx(model.predict([files[0]])[0].probability)
    with pytest.raises(ValueError, match="batch_size"):
        model.predict(files, batch_size=0)


def test_the_checksums_are_those_of_the_files(gated):
    done = subprocess.run(
        ["sha256sum", "-c", "colours.sha256"],
        cwd=gated.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split(": ") for line in done.stdout.splitlines()] == [
        [name, "OK"] for name in ("colours.yaml", "colours.safetensors", "colours.md")
    ]


def test_the_card_says_what_a_hub_and_a_reader_want_to_know(gated):
    _, head, body = gated.with_suffix(".md").read_text().split("---\n", maxsplit=2)
    described = parse_yaml(head, source="card")
    bundle = load_bundle(gated).bundle
    (result,) = described["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(bundle.val_accuracy, 4)
    assert described["base_model"] == "vit_quickstart"
    for expected in (
        f"{bundle.num_tuned_parameters:,}",
        'load_bundle("colours.yaml")',
        "num_tokens",
    ):
        assert expected in body
    assert "It was not tested." in body


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            {"val_accuracy": 1.0, "num_images": 200, "majority": 150},
            ("100.0 (≥ 98.1) % of the 200 validation images", "class gives 75.0 % of them"),
        ),
        ({"val_accuracy": 0.955, "num_images": 200}, ("95.5 ± 1.5 % of the 200 validation",)),
        ({"val_accuracy": 1.0}, ("100.0 % of the validation images, which",)),
        (
            {"test_accuracies": {7: 1.0, 8: 1.0}, "num_images": 1000, "majority": 400},
            ("100.0 (≥ 99.6) % of the 1,000 test images", "class gives 40.0 % of them"),
        ),
        ({"test_accuracies": {7: 0.94, 8: 0.96}}, ("95.0 ± 1.4 % of the test images",)),
        (
            {
                "test_accuracies": {7: 0.94, 8: 0.96},
                "cross_validation": 0.95,
                "cross_validation_interval": (0.93, 0.97),
            },
            (
                "it has 95.0 (93.0–97.0) % (95 % interval). That may be a little high: the "
                "finalists are the best of the search on validation images",
            ),
        ),
    ],
)
def test_the_card_says_what_an_accuracy_is_worth(gated, told, expected):
    bundle = read_bundle(gated)
    bundle = replace(bundle, trial=replace(bundle.trial, seed=7))
    if "test_accuracies" in told:
        bundle = replace(bundle, stage="final", val_accuracy=None)
    card = model_card(replace(bundle, **told), "Title", "https://paper")
    for text in expected:
        assert text in card
    assert "± 0.0" not in card
    assert ("most frequent class" in card) == ("majority" in told)


def test_weights_of_another_bundle_are_refused(gated, tmp_path):
    for suffix in (".yaml", ".safetensors"):
        shutil.copy(gated.with_suffix(suffix), tmp_path)
    content = bytearray((tmp_path / "colours.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "colours.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that"):
        load_bundle(tmp_path / "colours.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("method", ["vpt", "gatevpt", "lspt", "cvpt", "vapt", "linear"])
def test_the_exported_program_has_the_same_logits(method, suffix, task_folder, tmp_path):
    path, trial = write_bundle(method, task_folder, tmp_path)
    target = tmp_path / f"colours{suffix}"
    save_program(load_bundle(path), target)
    pixels = trial.load_pixels("val")
    images = pixels.images.permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = load_bundle(path).model(pixels.normalised(torch.arange(len(pixels))))
        if suffix == ".pt2":
            found = torch.export.load(target).module()(images)
        else:
            session = onnxruntime.InferenceSession(target)
            found = torch.from_numpy(session.run(None, {"pixels": images.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_program_of_another_kind_is_refused(task_folder, tmp_path):
    path, _ = write_bundle("linear", task_folder, tmp_path)
    with pytest.raises(ValueError, match=r"written as \.pt2 or \.onnx"):
        save_program(load_bundle(path), tmp_path / "colours.tflite")


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as a commit of small files needs."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers["Authorization"]))
        answer = {}
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            place = f"{self.headers['Host']}/{asked['organization']}/{asked['name']}"
            answer = {"url": f"http://{place}"}
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            answer = {
                "files": [
                    {"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files
                ]
            }
        elif "/commit/" in self.path:
            for line in body.splitlines():
                operation = json.loads(line)
                if operation["key"] == "file":
                    content = base64.b64decode(operation["value"]["content"])
                    self.server.files[operation["value"]["path"]] = content
            place = f"http://{self.headers['Host']}/me/prompts"
            answer = {"commitUrl": f"{place}/commit/{'1' * 40}", "commitOid": "1" * 40}
        text = json.dumps(answer).encode()
        self.send_response(200 if self.server.accepts else 403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format, *args):
        """Quiet."""


@pytest.mark.slow
@pytest.mark.parametrize("accepts", [True, False])
def test_a_bundle_is_pushed_to_a_hub_whole_or_with_a_reason(gated, accepts, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.files, server.accepts = [], {}, accepts
    threading.Thread(target=server.serve_forever, daemon=True).start()
    places = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "export", gated, "--push", "me/prompts"],
            env={**os.environ, **places, "HF_TOKEN": "hf_secret"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    finally:
        server.shutdown()
    assert ("/api/repos/create", "Bearer hf_secret") in server.seen
    assert "hf_secret" not in done.stdout + done.stderr
    if not accepts:
        assert done.returncode == 2
        assert "error: me/prompts: could not be pushed" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    names = [gated.with_suffix(suffix).name for suffix in BUNDLE_SUFFIXES]
    assert server.files.keys() == {*names, "README.md"}
    assert all(server.files[name] == (gated.parent / name).read_bytes() for name in names)
    assert server.files["README.md"] == gated.with_suffix(".md").read_bytes()


@given(
    first=st.tuples(names, names),
    second=st.tuples(names, names),
)
@example(first=("a.b", "c"), second=("a", "b.c"))
@example(first=("a:", "b"), second=("a~3A", "b"))
@example(first=("a" * 300, "b"), second=("a" * 300, "c"))
def test_two_winners_never_share_the_name_of_a_model(first, second):
    one, other = model_name(*first), model_name(*second)
    assert (one == other) == (first == second)
    _validate_model_name(one)
    assert not set(one) & set("/:?#%'\"@") and len(one) <= 256


def test_the_name_of_a_model_is_that_of_sweep_and_task_where_mlflow_takes_it():
    assert model_name("photos-20261121-120000", "cats") == "photos-20261121-120000.cats"
    assert model_name("a:b", "c/d?") == "a~3Ab.c~2Fd~3F"


@pytest.mark.mlflow
def test_a_winner_that_cannot_be_registered_keeps_no_other_from_it(gated, tmp_path):
    plan = make_plan(name="ratio 3:1 'x'", tasks=("lost", "left:right", "rest"))
    record = make_record(plan, tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    reconcile(plan, record, uri, best_files=lambda study: [])
    bundles = {study.name: gated for study in plan.studies}
    bundles["lost.vpt_deep"] = tmp_path / "lost.yaml"
    for _ in range(2):  # the second time nothing is new
        with pytest.raises(TrackingError, match=r"not registered as models: lost\.vpt_deep \("):
            register_winners(plan, uri, bundles)
    found = {version.name: version for version in mlflow.MlflowClient(uri).search_model_versions()}
    assert found.keys() == {"ratio 3~3A1 ~27x~27.left~3Aright", "ratio 3~3A1 ~27x~27.rest"}
    assert all(version.version == 1 for version in found.values())


@pytest.mark.mlflow
def test_the_registered_model_answers_on_images(gated, task_folder, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    where = (tmp_path / "artifacts").as_uri()
    run = client.create_run(client.create_experiment("sweep", artifact_location=where))
    assert register_winner(client, run.info.run_id, "sweep.colours", gated)
    assert not register_winner(client, run.info.run_id, "sweep.colours", gated)  # known already
    (version,) = client.search_model_versions("name = 'sweep.colours'")
    assert version.description.startswith("Best on validation: ")
    chosen = client.get_model_version_by_alias("sweep.colours", "best-val")
    assert chosen.version == version.version
    client.delete_registered_model_alias("sweep.colours", "best-val")
    register_winner(client, run.info.run_id, "sweep.colours", gated)
    assert client.get_registered_model("sweep.colours").aliases.keys() == {"best-val"}
    model = mlflow.pyfunc.load_model(version.source)
    files = sorted((task_folder / "images" / "test").iterdir())[:4]
    found = model.predict(pandas.DataFrame({"image": [file.read_bytes() for file in files]}))
    expected = load_bundle(gated).predict(files)
    assert found["label"].tolist() == [prediction.label for prediction in expected]
    assert found["class_name"].tolist() == [prediction.class_name for prediction in expected]
    page = (Path(__file__).parents[1] / "docs" / "bundles.md").read_text()
    commands = page.partition("runs these commands -->\n```bash\n")[2].partition("```")[0]
    for told, here in {
        "sqlite:///$PWD/sweeps/photos/mlflow.db": uri,
        "photos.photos@champion": "sweep.colours@best-val",
        "new/*.jpg": " ".join(shlex.quote(str(file)) for file in files),
        "\npython ": f"\n{shlex.quote(sys.executable)} ",
        "\nmlflow ": f"\n{shlex.quote(sys.executable)} -m mlflow ",
    }.items():
        assert commands.count(told) == 1, told
        commands = commands.replace(told, here)
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    rows = json.loads(done.stdout)["predictions"]
    assert [row["label"] for row in rows] == found["label"].tolist()


@pytest.mark.slow
def test_the_script_of_the_documentation_needs_methods_alone(gated, task_folder, tmp_path):
    page = Path(__file__).parents[1] / "docs" / "bundles.md"
    script = page.read_text().partition("runs this script -->\n```python\n")[2].partition("```")[0]
    (tmp_path / "script.py").write_text(
        "import sys\nsys.modules['orchestrator'] = None  # an import of it fails\n" + script
    )
    files = sorted((task_folder / "images" / "test").iterdir())[:6]
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", gated, *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    expected = [f"{p.image} {p.class_name}" for p in load_bundle(gated).predict(files)]
    assert done.stdout.splitlines() == expected
