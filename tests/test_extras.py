"""Parts that are not installed are asked for first, by packages that a registry has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import without_waiting
from suites import write_suite

from orchestrator.record.database import with_driver
from orchestrator.support.extras import packages_of, require


@pytest.mark.parametrize(
    ("extra", "package"),
    [("postgres", "psycopg[binary]"), ("onnx", "onnxruntime"), ("cluster", "boto3")],
)
def test_the_packages_of_an_extra_are_named_one_by_one(extra, package):
    packages = packages_of(extra)
    assert package in [re.split("[><=]", one)[0] for one in packages]
    assert not any("visual-prompt-orchestrator" in one or "extra" in one for one in packages)


def test_what_is_missing_is_named_with_what_to_install():
    require("postgres", "psycopg", what="this test")
    with pytest.raises(ValueError, match=r"needs no_such_module.*pip install 'psycopg\[binary\]"):
        require("postgres", "no_such_module", what="this test")


def test_an_address_without_a_driver_gets_ours():
    assert with_driver("postgresql://a:secret@host/studies") == (
        "postgresql+psycopg://a:secret@host/studies"
    )
    assert with_driver("postgres://host/studies") == "postgresql+psycopg://host/studies"
    assert with_driver("sqlite:////folder/studies.db") == "sqlite:////folder/studies.db"


@pytest.mark.parametrize("address", ["nosuch://host/studies", "mysql+nodriver://host/studies"])
def test_an_unknown_driver_is_refused_by_name(address):
    with pytest.raises(ValueError, match="cannot be used here"):
        with_driver(address)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sweep", "services"])
def test_without_psycopg_nothing_is_started(command, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "psycopg.py").write_text("raise ImportError('not here')\n")
    arguments = {
        "sweep": ["sweep", str(write_suite(tmp_path / "suite")), "--out", str(tmp_path / "made"),
                  "--backbone", "vit_quickstart", "--storage", "postgresql://user:secret@host/db"],
        "services": ["services", "start", "--folder", str(tmp_path / "made")],
    }[command]  # fmt: skip
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'broken'}:{root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    said = without_waiting(done.stderr)
    assert "psycopg" in said and "pip install 'psycopg[binary]" in said
    assert "secret" not in done.stderr and len(said.splitlines()) == 1
    assert not (tmp_path / "made").exists()
