"""What stands in a name is shown, on a terminal, in a table, on a page; it is never obeyed."""

import csv
import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hostile_documents import write_good_bundle
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from methods import METHODS, load_backbone
from orchestrator.bundle.bundle import read_bundle
from orchestrator.bundle.card import model_card
from orchestrator.bundle.explain import AttentionShares, _draw_maps, _png
from orchestrator.cli import main
from orchestrator.cli.terminal import Terminal
from orchestrator.report.formats import as_csv
from orchestrator.support.foreign_text import code, markdown, table_cell, visible

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

MARKUP = "[red]fox[/red] [/] [link=http://x]y[/link] :smile:"
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\rerror: \x08\u202egpj.exe\u2066\ufeff\u2028\udcff"


@pytest.fixture(scope="module")
def good_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return read_bundle(write_good_bundle(folder, load_backbone("vit_quickstart")))


@pytest.fixture
def terminal(capsys):
    def shown(*renderables, **how):
        Terminal().print(*renderables, **how)
        return capsys.readouterr().out

    return shown


@pytest.mark.parametrize("style", ["", "bold"])
def test_markup_in_a_line_is_only_text(style, terminal):
    assert terminal(MARKUP, style=style, soft_wrap=True) == f"{MARKUP}\n"


@pytest.mark.parametrize("wrap", [str, Text])
def test_markup_in_a_table_is_only_text(wrap, terminal):
    table = Table(MARKUP, box=None, pad_edge=False)
    table.add_row(wrap(MARKUP))
    assert [line.strip() for line in terminal(table).splitlines()] == [MARKUP, MARKUP]


@pytest.mark.parametrize("wrap", [str, Text])
def test_no_order_reaches_the_terminal(wrap, terminal):
    table = Table("name", box=None)
    table.add_row(wrap(ESCAPES))
    for shown in (terminal(wrap(ESCAPES)), terminal(table)):
        assert shown.isascii()
        assert set(re.findall(r"[\x00-\x1f\x7f]", shown)) == {"\n"}
    assert r"\x1b[2J" in terminal(ESCAPES, soft_wrap=True)


def test_a_line_break_in_a_name_makes_no_line_of_ours(terminal):
    assert terminal("a\nerror: b") == "a\n  error: b\n"
    table = Table("name", box=None, pad_edge=False)
    table.add_row("a\nerror: b")
    assert terminal(table).splitlines()[1].strip() == r"a\nerror: b"


@given(st.text())
@example(ESCAPES)
def test_what_is_visible_is_itself_or_written_out(text: str):
    shown = visible(text)
    assert not any(character in shown for character in "\x1b\n\r\t\x00\x9b\u202e\u2028")
    assert visible(shown) == shown
    shown.encode()


def test_words_of_all_scripts_stay(terminal):
    for name in ("Übergröße", "猫と犬", "می‌خواهم", "نص", "🦊", "नमस्ते", "e\u0301"):
        assert visible(name) == name


@pytest.mark.parametrize("command", ["status", "report", "doctor", "resume", "finalize", "predict"])
def test_an_error_shows_the_path_and_obeys_nothing(command, monkeypatch, capsys):
    path = "[/red]\x1b[31mno such\nerror: place"
    more = ["image.png"] if command == "predict" else []
    monkeypatch.setattr(sys, "argv", ["orchestrator", command, path, *more])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().err
    assert ended.value.code == 2
    assert r"[/red]\x1b[31mno such" in shown
    assert "\x1b" not in shown
    assert shown.count("\nerror: ") == 0


def test_all_commands_print_through_the_terminal():
    folder = Path(sys.modules[main.__module__].__file__).parent
    for file in folder.glob("*.py"):
        if file.name != "terminal.py":
            assert not re.search(r"(?<![A-Za-z])Console\(", file.read_text()), file.name


def test_no_cell_of_a_csv_is_a_formula():
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", '=HYPERLINK("http://x","y")']
    rows = [{"task": name, "val": -0.5, "missing": None} for name in names]
    for row in csv.DictReader(io.StringIO(as_csv(rows))):
        assert row["task"][0] in "'\\"
        assert float(row["val"]) == -0.5
        assert row["missing"] == ""


@given(st.text(max_size=30))
@example("=cmd|' /C calc'!A0")
def test_a_cell_that_is_no_formula_keeps_its_text(text: str):
    cell = table_cell(text)
    assert cell in (visible(text), f"'{visible(text)}")


@given(st.text(max_size=40))
@example("</script><img src=x onerror=alert(1)>")
@example("a|b`c*d_e[f](javascript:x)")
def test_markdown_has_no_html_and_no_cell_of_its_own(text: str):
    shown = markdown(text)
    assert "<" not in shown
    assert not re.search(r"(?<!\\)[|`*\[\]]", shown.replace(r"\\", ""))
    assert "\n" not in code(text)


NAMES = (
    *('---\n"a: [b', "'", "`x` ```", "a|b <img src=x onerror=alert(1)>"),
    *("- x: &a *b", "yes", "1e5", "1. x"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_valid_for_any_name(name, good_bundle):
    bundle = replace(
        good_bundle,
        task=name,
        sweep=name,
        class_names=(name, "b"),
        backbone=replace(good_bundle.backbone, name=name),
        trial=replace(good_bundle.trial, study=name),
    )
    method = METHODS[bundle.trial.method]
    card = model_card(bundle, method.title, method.paper)
    start, head, body = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    assert not start
    described = yaml.safe_load(head)
    assert described["base_model"] == name
    assert described["model-index"][0]["results"][0]["dataset"]["name"] == name
    without_code = re.sub(r"(`+).+?\1", "", body, flags=re.DOTALL)
    assert "<img" not in without_code
    assert not re.search("^---$", body, flags=re.MULTILINE)
    for line in body.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3


def test_a_dollar_in_the_name_of_a_class_is_drawn():
    looks = AttentionShares(patches=torch.rand(1, 1, 4), prompts=[torch.zeros(1, 0)])
    image = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    figure = _draw_maps(image, [r"$\frac{$ cat_{$"], looks, looks)
    assert figure.axes[0].get_title() == r"$\frac{$ cat_{$"
    assert _png(figure)
