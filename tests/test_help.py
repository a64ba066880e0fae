"""What stands in the help, what a shell completes, and what is said of a line that is none."""

import sys
from collections.abc import Iterator

import pytest
import typer.main
from command_line import without_waiting
from typer.testing import CliRunner

from orchestrator.cli import app, main
from orchestrator.plan.request import SweepRequest
from orchestrator.plan.samplers import SAMPLERS
from orchestrator.plan.space import shipped_spaces
from orchestrator.support.options import field_of, fields_of

WIDTH = 80


def leaves(command, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command that is no group."""
    command = getattr(command, "imported", command)
    if commands := getattr(command, "commands", None):
        for name, inner in commands.items():
            yield from leaves(inner, *path, name)
    else:
        yield path


COMMANDS = sorted(leaves(typer.main.get_command(app)))


def help_of(*command: str, asked: str = "--help") -> str:
    result = CliRunner().invoke(app, [*command, asked], env={"COLUMNS": str(WIDTH)})
    assert result.exit_code == 0
    return result.output


def said(*command: str) -> str:
    """Without frames and line breaks."""
    return " ".join(help_of(*command).replace("│", " ").split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_fits_80_columns_and_begins_with_what_is_typed(command):
    text = help_of(*command)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert f"orchestrator {' '.join(command)}" in text.partition("╭")[0].partition("Usage")[2]
    assert "\n   orchestrator " in text.partition("╭")[0]
    assert help_of(*command, asked="-h") == text


def test_the_options_of_a_sweep_stand_under_their_subject_with_limits_and_default():
    text = help_of("sweep")
    places = [text.index(f"╭─ {title} ─") for title in ("Data", "Backbone", "Search", "Machine")]
    assert places == sorted(places)
    assert "─ Options ─" not in text  # each has a subject
    every = said("sweep")
    for part in (
        "[at least 1; default: 30; quickstart: 8]",
        "[imagenet | inception | none; default: as the backbone was pretrained]",
        "[1 to 2,048; default: the backbone's]",
        "[default: this machine; environment: RAY_ADDRESS]",
        "[default: on]",
    ):
        assert part in every


def test_every_option_of_a_search_says_what_holds_without_it():
    for field in fields_of(SweepRequest):
        assert field.default_text or field.option.positional or not field.option.in_commands


def test_the_data_folder_has_one_default_everywhere():
    default = "[default: $ORCHESTRATOR_DATA, then ./data]"
    for command in (("sweep",), ("data", "check"), ("data", "prepare"), ("data", "list")):
        assert default in said(*command)


def completed(*words: str) -> list[str]:
    """What bash is told for the last of these words."""
    asked = {
        "_ORCHESTRATOR_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("orchestrator", *words)),
        "COMP_CWORD": str(len(words)),
    }
    return CliRunner().invoke(app, [], env=asked, prog_name="orchestrator").output.split()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("swe",), ["sweep"]),
        (("sweep", "quickstart", "--launch", "g"), ["graph"]),
        (("sweep", "quickstart", "--sampler", ""), list(SAMPLERS)),
        (("sweep", "quickstart", "--method", "vpt_s"), ["vpt_shallow"]),
        (("sweep", "quickstart", "--method", ""), shipped_spaces()),
        (("sweep", "q"), ["quickstart"]),
        (("sweep", "./pho"), []),  # a file name: the shell's own
        (("methods", "gate"), ["gatevpt"]),
    ],
)
def test_a_shell_completes_names(words, names):
    assert completed(*words) == names


def test_the_samplers_of_the_command_are_those_there_are():
    assert field_of(SweepRequest, "sampler").choices == tuple(SAMPLERS)


def test_the_version_names_what_computes():
    first, second = CliRunner().invoke(app, ["--version"]).output.splitlines()
    assert first.startswith("orchestrator ")
    for name in ("Python", "torch", "timm", "ray", "optuna", "mlflow"):
        assert f"{name} " in second


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("swep quickstart", "unknown command 'swep'; did you mean 'sweep'? (`orchestrator --help`"),
        ("frobnicate", "unknown command 'frobnicate'; known: compare, data, doctor"),
        ("data chek ./x", "did you mean 'check'? (`orchestrator data --help` lists them)"),
        ("sweep quickstart --epoch 3", "unknown option '--epoch'; did you mean '--epochs'?"),
        ("sweep quickstart --zzz 3", "unknown option '--zzz' (`orchestrator sweep --help` lists"),
        ("sweep", "missing argument 'SUITE': quickstart, vtab, fgvc, a folder of images"),
        ("sweep quickstart --trials", "option '--trials' requires an argument"),
        ("sweep quickstart --trials abc", "--trials: expected a whole number, found 'abc'"),
        ("sweep quickstart --max-hours x", "--max-hours: expected a number, found 'x'"),
        ("sweep quickstart --launch grph", "unknown value of --launch 'grph'; did you mean"),
        ("sweep quickstart --reduction x", "--reduction: expected a whole number, found 'x'"),
        ("sweep quickstart --pruner halving", "did you mean 'successive_halving'?"),
        ("sweep quickstart --epochs 0", "--epochs must be at least 1, found 0"),
        ("sweep quikstart", "unknown suite 'quikstart'; did you mean 'quickstart'?"),
        ("sweep quickstart --tasks digit", "unknown task 'digit'; did you mean 'digits'?"),
        ("sweep quickstart --tasks digit --tasks digits", "unknown task 'digit'; did you mean"),
        ("sweep quickstart --method vpt", "did you mean 'vpt_deep', 'vpt_deep_adamw', "),
        ("sweep quickstart --split 50/50/50", "--split '50/50/50' makes 150"),
        ("sweep quickstart --weights none.pth", "none.pth: there is no such file of weights"),
        ("resume no/such", "no/such: no such sweep folder"),
        ("sweep my_sweep.yaml", "my_sweep.yaml: cannot be read: No such file"),
        ("finalize x --seeds 1,b", "--seeds: expected numbers with commas, found 'b'"),
        ("finalize x --seeds 1 --seeds c", "--seeds: expected numbers with commas, found 'c'"),
        ("ui x --port 70000", "--port: expected a whole number, 1 to 65,535, found '70000'"),
        ("report x --format pdf", "unknown value of --format 'pdf'; known: csv, json"),
    ],
)
def test_a_line_that_no_command_understands_is_answered_in_one(typed, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["orchestrator", *typed.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    output = without_waiting(capsys.readouterr().err)
    assert ended.value.code == 2
    assert output.startswith("error: ")
    assert told in output
    assert output.count("\n") == 1
