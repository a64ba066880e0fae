"""Sweep folders of older versions (tests/old_sweeps/) open, go on and give what they gave."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bundle.bundle import FORMAT as BUNDLE_FORMAT
from orchestrator.bundle.bundle import load_bundle
from orchestrator.cli import main
from orchestrator.data.suites import load_suite
from orchestrator.plan.plan import load_plan
from orchestrator.record.stored_plan import find_plan

ARCHIVES = sorted((Path(__file__).parent / "old_sweeps").glob("format_*.tar.xz"))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def made(request, tmp_path_factory) -> Path:
    """The folder with `half` (interrupted) and `whole` (complete, finalized), as they were."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def whole(made, tmp_path) -> Path:
    return shutil.copytree(made / "whole", tmp_path / "whole")


def command(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    """The exit code of one command and what it printed."""
    monkeypatch.setattr(sys, "argv", ["orchestrator", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().out


def test_its_plan_is_the_same_in_the_folder_and_in_the_storage(whole, tmp_path):
    stored = find_plan(tmp_path / "gone" / "whole", f"sqlite:///{whole / 'studies.db'}")
    assert stored == load_plan(whole)
    assert {study.name for study in stored.studies} >= {"digits.linear", "digits.vpt_deep"}


def test_status_and_report_show_what_it_found(whole, monkeypatch, capsys):
    code, status = command(monkeypatch, capsys, "status", whole)
    assert code == 0
    assert "89.5 ± 2.2" in status
    assert "4 of 4 studies tested" in status
    code, report = command(monkeypatch, capsys, "report", whole)
    assert code == 0
    for number in ("89.5 ± 2.2", "94.2 ± 1.7", "64.6 ± 4.1"):
        assert number in report
    assert (whole / "report.html").is_file()


def test_it_is_exported_again_in_the_format_of_now_with_the_same_prompts(
    whole, monkeypatch, capsys
):
    before = {path.name: path.read_bytes() for path in whole.glob("best/*.safetensors")}
    shutil.rmtree(whole / "best")
    code, _ = command(monkeypatch, capsys, "export", whole)
    assert code == 0
    assert before
    assert {path.name: path.read_bytes() for path in whole.glob("best/*.safetensors")} == before
    description = (whole / "best" / "digits.yaml").read_text()
    assert description.startswith(f"format: {BUNDLE_FORMAT.newest}\n")


def test_its_bundle_predicts_as_well_as_it_says(whole):
    val = load_suite("quickstart", tasks=["digits"]).tasks[0].splits["val"].examples
    model = load_bundle(whole / "best" / "digits.yaml")
    found = model.predict([example.path for example in val])
    right = [p.label == e.label for p, e in zip(found, val, strict=True)]
    assert sum(right) / len(val) == pytest.approx(model.bundle.val_accuracy)


@pytest.mark.mlflow
@pytest.mark.slow
def test_the_doctor_makes_again_what_is_missing_and_finds_nothing(whole, monkeypatch, capsys):
    code, shown = command(monkeypatch, capsys, "doctor", whole, "--repair", "--json")
    found = json.loads(shown)
    assert found["findings"] == []
    assert {"storage", "trials", "table", "bundles", "final", "mlflow"} <= set(found["checked"])
    assert code == 0
    code, shown = command(monkeypatch, capsys, "finalize", whole)
    assert code == 0
    assert "94.2 ± 1.7" in shown
    assert "the test split was opened once" in shown


@pytest.mark.ray
@pytest.mark.slow
def test_an_interrupted_one_goes_on_to_its_end(made, tmp_path, monkeypatch, capsys):
    half = shutil.copytree(made / "half", tmp_path / "half")
    before = studies(command(monkeypatch, capsys, "status", half, "--json"))
    assert [study["complete"] + study["pruned"] for study in before] == [2, 1]
    resume = [sys.executable, "-m", "orchestrator", "resume", half, "--slots", "1"]
    refused = subprocess.run(resume, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "the software changed" in refused.stderr
    done = subprocess.run([*resume, "--accept-versions"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    after = studies(command(monkeypatch, capsys, "status", half, "--json"))
    assert [study["complete"] + study["pruned"] for study in after] == [4, 4]
    # What was complete stays what it was.
    assert after[0]["best_val_accuracy"] >= before[0]["best_val_accuracy"] == 0.815


def studies(ended: tuple[int, str]) -> list[dict[str, Any]]:
    code, shown = ended
    assert code == 0
    return json.loads(shown)
