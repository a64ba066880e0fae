"""docs/json.md says what programs find in the JSON of each command."""

import json
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.cli import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "json.md").read_text()
ARCHIVE = ROOT / "tests" / "old_sweeps" / "format_1.tar.xz"
"""A finalized sweep and one that was stopped."""


def documented(heading: str) -> set[str]:
    """The fields in the first column of the table under a heading."""
    section = PAGE.partition(f"## `orchestrator {heading}")[2].partition("\n## ")[0]
    assert section, f"docs/json.md has no section on {heading}"
    cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(.+?)`", cell)}


def printed(value: object, path: str = "") -> Iterator[str]:
    """The path of everything in it; of lists and objects with entries, those of the entries."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from printed(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for one in value:
            yield from printed(one, f"{path}[]")
    else:
        yield path


def explains(field: str, path: str) -> bool:
    """Whether a documented field says what stands at this path, or below it where that is empty."""
    pattern = re.escape(field).replace("NAME", r"[^.\[\]]+")
    return re.fullmatch(rf"{pattern}([.\[].*)?", path) is not None or field.startswith(path)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    for label in "01":
        (folder / "labelled" / label).mkdir(parents=True)
        Image.new("L", (32, 32), 200 * int(label)).save(folder / "labelled" / label / "0.png")
    return folder


COMMANDS = {
    "plan SUITE": [
        *("plan", "quickstart", "--tasks", "digits", "--method", "linear", "--trials", "2"),
        *("--engine", "local", "--price-per-hour", "2.5"),
    ],
    "status SWEEP": ["status", "whole"],
    "report SWEEP": ["report", "whole"],
    "compare FIRST SECOND": ["compare", "whole", "half"],
    "finalize SWEEP": ["finalize", "whole"],
    "export SWEEP": ["export", "whole"],
    "train BUNDLE": ["train", "whole/best/digits.yaml"],
    "predict BUNDLE IMAGES": ["predict", "whole/best/digits.yaml", "labelled", "--top", "2"],
    "evaluate BUNDLE IMAGES": ["evaluate", "whole/best/digits.yaml", "labelled"],
    "doctor SWEEP": ["doctor", "whole"],
    "replay SWEEP": ["replay", "whole"],
    "data check SUITE": ["data", "check", "quickstart", "--tasks", "digits"],
    "data list [SUITE]": ["data", "list", "quickstart"],
    "methods [METHOD]": ["methods", "vpt"],
    "methods --backbones [TEXT]": ["methods", "--backbones", "vit_base"],
    "spaces list": ["spaces", "list"],
}
UNSEEN = re.compile(
    r"unreadable|published|earlier|changes|differences|problems|wins|failed_seeds|notes|done|"
    r"remarks|missing|why_not|gpu_hours"
)
"""Fields that are empty, or null, in these sweeps."""


@pytest.mark.parametrize("heading", COMMANDS)
@pytest.mark.slow
def test_a_command_prints_the_fields_that_the_page_names(heading, sweeps, monkeypatch, capsys):
    monkeypatch.chdir(sweeps)
    monkeypatch.setattr(sys, "argv", ["orchestrator", *COMMANDS[heading], "--json"])
    with pytest.raises(SystemExit):
        main()
    paths = set(printed(json.loads(capsys.readouterr().out)))
    fields = documented(heading)
    assert [path for path in paths if not any(explains(field, path) for field in fields)] == []
    lost = [field for field in fields if not any(explains(field, path) for path in paths)]
    assert [field for field in lost if not UNSEEN.search(field)] == []


def test_every_command_with_json_has_a_section():
    import typer.main

    from orchestrator.cli import app

    def walk(command, name: str) -> Iterator[str]:
        command = getattr(command, "imported", command)
        for sub, one in getattr(command, "commands", {}).items():
            yield from walk(one, f"{name} {sub}".strip())
        if any("--json" in parameter.opts for parameter in command.params):
            yield name

    named = set(walk(typer.main.get_command(app), ""))
    assert named >= {"status", "report", "compare", "predict"}
    assert [name for name in named if f"`orchestrator {name}" not in PAGE] == []
