"""Bundles and sweeps that a stranger wrote: a valid object, or one line that says what is wrong."""

import copy
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from command_line import without_waiting
from hostile_documents import BAD_BUNDLES, BAD_PLANS, changed, good_plan, write_good_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from methods import load_backbone
from orchestrator.bundle.bundle import Bundle, load_bundle, read_bundle
from orchestrator.cli import main
from orchestrator.plan.plan import SweepPlan, read_plan
from orchestrator.support.checksum import sha256_of
from orchestrator.support.yaml_io import dump_yaml, read_yaml

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_good_bundle(tmp_path_factory.mktemp("bundle"), load_backbone("vit_quickstart"))


@pytest.fixture(scope="module")
def document(bundle) -> dict[str, Any]:
    return read_yaml(bundle)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 1000, "a line that somebody can read"
    return text


def test_the_good_ones_are_good(bundle, tmp_path):
    assert isinstance(read_bundle(bundle), Bundle)
    assert isinstance(read_plan(good_plan(), source="plan"), SweepPlan)
    Image.new("RGB", (40, 30), (200, 0, 0)).save(tmp_path / "red.png")
    assert load_bundle(bundle).predict([tmp_path / "red.png"])[0].image.endswith("red.png")


@pytest.mark.parametrize(
    ("place", "value"), BAD_BUNDLES, ids=[f"{p}-{str(v)[:20]!a}" for p, v in BAD_BUNDLES]
)
def test_a_bad_value_in_a_bundle_is_one_line_that_names_it(
    place, value, document, bundle, monkeypatch
):
    bad = changed(document, place, value)
    monkeypatch.setattr("orchestrator.bundle.bundle.read_yaml", lambda path: bad)
    with pytest.raises(ValueError) as refused:
        read_bundle(bundle)
    text = one_line(refused.value)
    assert text.startswith(f"{bundle}: ")
    assert place.split(".")[-1 if not place.endswith((".0", ".1")) else -2] in text


@pytest.mark.parametrize(
    ("place", "value"), BAD_PLANS, ids=[f"{p}-{str(v)[:20]!a}" for p, v in BAD_PLANS]
)
def test_a_bad_value_in_a_plan_is_one_line(place, value):
    with pytest.raises(ValueError) as refused:
        read_plan(changed(good_plan(), place, value), source="sweep.yaml")
    assert one_line(refused.value).startswith("sweep.yaml: ")


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_bundle_changed_anywhere_is_a_bundle_or_one_line(data, document, tmp_path, monkeypatch):
    places = st.sampled_from(sorted(_places(document)))
    junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    junk |= st.lists(junk, max_size=3) | st.dictionaries(st.text(max_size=5), junk, max_size=3)
    bad = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        try:
            bad = changed(bad, data.draw(places), data.draw(junk))
        except (KeyError, TypeError, IndexError, ValueError):
            continue  # the change before has taken the place away, or left a list there
    monkeypatch.setattr("orchestrator.bundle.bundle.read_yaml", lambda path: copy.deepcopy(bad))
    try:
        assert isinstance(read_bundle(tmp_path / "pets.yaml"), Bundle)
    except ValueError as error:
        one_line(error)


def _places(document: Any, above: str = "") -> set[str]:
    steps = document.items() if isinstance(document, dict) else enumerate(document)
    found = set()
    for key, value in steps:
        found.add(f"{above}{key}")
        if isinstance(value, dict | list):
            found |= _places(value, f"{above}{key}.")
    return found


# Files


def _with(bundle: Path, folder: Path, state: dict[str, torch.Tensor] | bytes) -> Path:
    """A copy of the bundle whose description fits these tensors."""
    target = folder / "pets.yaml"
    tensors = target.with_suffix(".safetensors")
    if isinstance(state, bytes):
        tensors.write_bytes(state)
    else:
        safetensors.torch.save_file(state, tensors)
    text = changed(read_yaml(bundle), "tensors_sha256", sha256_of(tensors))
    target.write_text(dump_yaml(text), encoding="utf-8")
    return target


def _header(text: str | bytes, length: int | None = None) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return (len(content) if length is None else length).to_bytes(8, "little") + content


TENSORS = {
    "of other values": lambda state: {**state, "head.bias": state["head.bias"] * float("nan")},
    "infinite": lambda state: {**state, "head.bias": state["head.bias"] / 0},
    "of another type": lambda state: {k: v.to(torch.int64) for k, v in state.items()},
    "of half the digits": lambda state: {k: v.half() for k, v in state.items()},
    "too many": lambda state: {**state, "vit.blocks.0.attn.qkv.weight": torch.zeros(1)},
    "of a long name": lambda state: {**state, "x" * 100_000: torch.zeros(1)},
    "too few": lambda state: {"head.bias": state["head.bias"]},
    "none": lambda state: {},
    "of another shape": lambda state: {**state, "head.bias": torch.zeros(10_000_000)},
    "empty": lambda _: b"",
    "a header of all memory": lambda _: _header("{}", 2**63),
    "a header of 100 MB": lambda _: _header("{}", 100_000_000),
    "no JSON": lambda _: _header("{" * 1000),
    "deep": lambda _: _header('{"a":' * 5000),
    "a shape of all memory": lambda _: _header(
        '{"head.bias":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}' + "    "
    ),
    "below nothing": lambda _: _header(
        '{"head.bias":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}    '
    ),
    "an unknown type": lambda _: _header(
        '{"head.bias":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}}    '
    ),
    "a pickle": lambda _: b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_are_one_line(kind, bundle, tmp_path):
    state = safetensors.torch.load_file(bundle.with_suffix(".safetensors"))
    path = _with(bundle, tmp_path, TENSORS[kind](state))
    with pytest.raises(ValueError) as refused:
        load_bundle(path)
    assert "pets." in one_line(refused.value)


def no_regular_files(folder: Path) -> dict[str, Path]:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    return {"pipe": pipe, "device": Path("/dev/zero"), "folder": folder}


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("suffix", [".yaml", ".safetensors"])
def test_what_is_no_file_is_not_read(kind, suffix, bundle, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(bundle.parent, here)
    path = (here / "pets").with_suffix(suffix)
    path.unlink()
    path.symlink_to(no_regular_files(tmp_path)[kind])
    with pytest.raises(ValueError, match=f"is a {kind}, not a file"):
        load_bundle(here / "pets.yaml")


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "huge": "a" * 5_000_000,
        "a number in base 60": "format: " + ":".join(["1"] * 500_000),
        "a long number": "format: " + "9" * 100_000,
        "a list as a name": "? [a, b]\n: c\n? [a, b]\n: d",
        "a mapping as a name": "{a: b}: c",
        "a set": "!!set {a, b}",
        "bytes": "!!binary aGVsbG8=",
        "a time": "format: 2001-12-14t21:59:43.10-05:00\n? 2001-02-30\n: x",
        "merged": "<<: {format: 1}\n<<: 7",
        "halves of characters": 'format: 1\ntask: "\\ud800"',
        "a null character": "format: 1\ntask: a\0b",
        "deep": "a: " * 3000 + "b",
        "two documents": "a: 1\n---\nb: 2",
        "no text": "\xff\xfe",
    }.items(),
)
def test_any_yaml_is_one_line_and_soon(name, text, tmp_path):
    path = tmp_path / "pets.yaml"
    path.write_text(text, encoding="latin-1" if name == "no text" else "utf-8")
    began = time.process_time()
    with pytest.raises(ValueError) as refused:
        read_bundle(path)
    assert str(refused.value).startswith(str(path))
    assert time.process_time() - began < 20


# Commands


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("trial.config.epochs", 10**9),
        ("cpu_threads", 100_000),
        ("backbone.image_size", 100_000),
        ("backbone.weights", "/dev/zero"),
        ("backbone.weights_sha256", "0" * 64),
        ("backbone.name", "[/red]vit\x1b[2J"),
        ("recipe", None),
        ("task", "../../../etc"),
        ("tensors_sha256", "0" * 64),
        ("format", 99),
    ],
)
@pytest.mark.parametrize("command", ["train", "predict", "export", "explain"])
def test_a_command_on_a_bad_bundle_is_one_line(
    command, place, value, bundle, tmp_path, monkeypatch, capsys
):
    shutil.copy(bundle.with_suffix(".safetensors"), tmp_path)
    bad = tmp_path / "pets.yaml"
    bad.write_text(dump_yaml(changed(read_yaml(bundle), place, value)), encoding="utf-8")
    image = tmp_path / "red.png"
    Image.new("RGB", (8, 8)).save(image)
    arguments = [command, str(bad), *([str(image)] if command == "predict" else [])]
    monkeypatch.setattr(sys, "argv", ["orchestrator", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = without_waiting(capsys.readouterr().err)
    assert ended.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "command", ["status", "report", "doctor", "resume", "finalize", "export", "ui", "compare"]
)
@pytest.mark.parametrize("kind", ["a bad name", "a link", "a link to the storage", "a pipe"])
def test_a_command_on_a_sweep_of_a_stranger_is_one_line(
    command, kind, tmp_path, monkeypatch, capsys
):
    folder, secret = tmp_path / "sweep", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("token: hush\n")
    plan = folder / "sweep.yaml"
    plan.write_text(dump_yaml(good_plan()), encoding="utf-8")
    if kind == "a bad name":
        plan.write_text(dump_yaml(changed(good_plan(), "tasks.0.name", "../up")), encoding="utf-8")
    elif kind == "a link":
        plan.unlink()
        plan.symlink_to(secret)
    elif kind == "a pipe":
        plan.unlink()
        os.mkfifo(plan)
    else:
        (folder / "studies.db").symlink_to(secret)
    more = [str(folder)] if command == "compare" else []
    monkeypatch.setattr(sys, "argv", ["orchestrator", command, str(folder), *more])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main()
    said = without_waiting(capsys.readouterr().err)
    assert ended.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "hush" not in said
    assert sorted(tmp_path.rglob("*")) == before
    assert secret.read_text() == "token: hush\n"
