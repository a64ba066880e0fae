"""The distribution holds what it needs and owns its names."""

import re
import shutil
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
DISTRIBUTION = "visual-prompt-orchestrator"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_three_packages_and_nothing_else(names):
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"orchestrator", "methods", "search_spaces"}


def test_the_wheel_holds_every_search_space_and_the_embedded_backbone(names):
    spaces = {f"search_spaces/{path.name}" for path in (ROOT / "search_spaces").glob("*.yaml")}
    assert spaces
    assert spaces <= names
    assert "methods/assets/vit_quickstart.safetensors" in names
    assert "methods/assets/vit_quickstart.json" in names


def test_the_wheel_says_that_its_packages_are_typed(names):
    assert {"orchestrator/py.typed", "methods/py.typed"} <= names


def test_what_the_dockerfile_copies_is_all_that_the_wheel_is_made_of(names, tmp_path):
    lines = re.findall(r"^COPY (.*)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    for name in [name for line in lines for name in line.split()[:-1]]:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
        assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()
    (wheel,) = WheelBuilder(str(tmp_path)).build(
        directory=str(tmp_path / "dist"), versions=["standard"]
    )
    with zipfile.ZipFile(wheel) as archive:
        assert {n for n in archive.namelist() if "__pycache__" not in n} == names


@pytest.mark.parametrize("package", ["orchestrator", "methods", "search_spaces"])
def test_no_other_distribution_owns_our_names(package):
    owners = set(metadata.packages_distributions().get(package, [DISTRIBUTION]))
    assert owners == {DISTRIBUTION}


def test_it_cannot_be_uploaded_by_mistake():
    classifiers = metadata.metadata(DISTRIBUTION).get_all("Classifier") or []
    assert "Private :: Do Not Upload" in classifiers
