"""Files that a stranger wrote: read as what they are, or refused with a ValueError, never worse."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from methods import load_backbone
from orchestrator.bundle.bundle import FORMAT, read_bundle
from orchestrator.data.vtab import read_vtab_task
from orchestrator.plan.space import SearchSpace, parse_space
from orchestrator.support.yaml_io import dump_yaml, parse_yaml
from orchestrator.training.checkpoint import load_checkpoint

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
words = st.sampled_from(
    (
        "method",
        "fixed",
        "search",
        "vpt",
        "linear",
        "lr",
        "num_tokens",
        "deep",
        "low",
        "high",
        "log",
        "when",
    )
)
near_spaces = st.recursive(
    words | st.integers() | st.floats() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=12,
)


@given(texts | values)
@example("68e504546919")  # the first digest that came back as infinity
@example("1e5")
@example("1_0")
def test_what_is_written_as_yaml_is_read_back_the_same(value: Any):
    assert parse_yaml(dump_yaml({"value": value}), source="test") == {"value": value}


@given(st.text(max_size=200))
def test_any_text_is_yaml_or_a_value_error(text: str):
    try:
        parse_yaml(text, source="hostile.yaml")
    except ValueError as error:
        assert "hostile.yaml" in str(error)


@given(near_spaces | st.dictionaries(words, near_spaces, max_size=3))
@example({"method": "vpt", "search": {"lr": {"low": 1, "high": 2, "log": True, "step": 1}}})
def test_any_document_is_a_space_or_a_value_error(document: Any):
    try:
        assert isinstance(parse_space(document, name="x", source="x.yaml"), SearchSpace)
    except ValueError as error:
        assert "x.yaml" in str(error)


@given(values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_document_is_a_bundle_or_a_value_error(tmp_path: Path, document: Any):
    path = tmp_path / "task.yaml"
    for number in range(1, FORMAT.newest + 1):
        contents = {"format": number, **document} if isinstance(document, dict) else document
        path.write_text(dump_yaml(contents), encoding="utf-8")
        with pytest.raises(ValueError, match=r"task\.yaml"):
            read_bundle(path)


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_no_checkpoint_and_run_no_code(tmp_path: Path, content: bytes):
    path = tmp_path / "0.checkpoint"
    for start in (b"", b"orchestrator checkpoint 1\n"):
        path.write_bytes(start + content)
        assert load_checkpoint(path, owner="anyone") is None


class Hostile:
    """What a pickle can hold: it makes a file when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def hostile_pickle(trace: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"owner": "anyone", "state": Hostile(trace)}, buffer)
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert trace.exists(), "it is harmless"
    trace.unlink()
    return buffer.getvalue()


def test_a_checkpoint_whose_checksum_is_right_still_runs_no_code(tmp_path: Path):
    content = hostile_pickle(tmp_path / "trace")
    path = tmp_path / "0.checkpoint"
    checksum = hashlib.sha256(content).digest()
    path.write_bytes(b"orchestrator checkpoint 1\n" + checksum + content)
    assert load_checkpoint(path, owner="anyone") is None
    assert not (tmp_path / "trace").exists()


def test_weights_that_are_a_program_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "weights.pth"
    path.write_bytes(hostile_pickle(tmp_path / "trace"))
    with pytest.raises(ValueError, match=r"weights\.pth"):
        load_backbone("vit_tiny_patch16_224", weights=path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "text",
    ["[" * 20_000, "a: " + "9" * 100_000, "a: &a [x, x]\nb: [*a, *a]", "!!python/name:os.system"],
    ids=["deep", "a huge number", "a bomb", "a program"],
)
def test_yaml_that_would_cost_or_run_something_is_refused_by_name(text: str):
    with pytest.raises(ValueError, match=r"hostile\.yaml"):
        parse_yaml(text, source="hostile.yaml")


@pytest.mark.slow
def test_a_list_of_a_million_lines_is_read(tmp_path: Path):
    lines = "".join(f"images/{number:07}.png {number % 10}\n" for number in range(1_000_000))
    for name in ("train800", "val200", "test", "train800val200"):
        (tmp_path / f"{name}.txt").write_text(lines if name == "train800" else lines[:300])
    assert len(read_vtab_task(tmp_path).splits["train"].examples) == 1_000_000
