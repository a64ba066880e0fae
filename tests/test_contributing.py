"""What CONTRIBUTING.md and the hooks tell a contributor is true of this checkout."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/methods.md")
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page):
    text = (ROOT / page).read_text()
    places = {*re.findall(r"\]\(([^)#:]+)\)", text)}
    named = {*re.findall(r"`((?:orchestrator|methods|tests|search_spaces|docs)/[\w/*.]*)`", text)}
    assert places or named
    lost = [name for name in places if not ((ROOT / page).parent / name).exists()]
    lost += [name for name in named if not any(ROOT.glob(name))]
    assert lost == []


def test_every_make_target_that_is_named_exists():
    named = set(re.findall(r"`?make ([\w-]+)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert {"install", "fast", "test", "test-all", "check"} <= named
    assert [target for target in named if f"\n{target}:" not in MAKEFILE] == []


def test_the_hooks_run_what_make_check_runs():
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert check
    programs = re.findall(r"\$\(BIN\)/(.*)", check[1])
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks]
    assert entries == [program.removesuffix(" .") for program in programs]


def test_the_quick_tests_are_those_without_any_mark_that_costs():
    marks = re.findall(r'^  "(\w+): ', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    fast = re.search(r"^QUICK := .*not \(([^)]*)\)", MAKEFILE, flags=re.MULTILINE)
    assert fast
    assert set(fast[1].split(" or ")) == set(marks)


def test_the_classes_that_a_page_shows_are_those_of_the_code():
    shown = re.findall(r"^```python\n(.*?)^```", METHODS_PAGE, flags=re.MULTILINE | re.DOTALL)
    classes = {
        name[1]: code for code in shown if (name := re.search(r"^class (\w+)\(", code, re.M))
    }
    assert {"Bias", "PlainViT"} <= classes.keys()
    files = [file.read_text() for file in (ROOT / "methods").rglob("*.py")]
    for name, code in classes.items():
        (own,) = (text for text in files if f"\nclass {name}(" in text)
        lines = [line for line in code.splitlines() if line.strip() != "..."]
        assert [line for line in lines if f"\n{line}\n" not in own] == []
