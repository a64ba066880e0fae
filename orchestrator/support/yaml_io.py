"""YAML as a scientist writes it, read safely: `1e-4` is a number, aliases and tags are refused."""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from orchestrator.support.regular_file import read_regular


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 floats, without aliases and with unique keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        # An alias is how a few lines expand to gigabytes; no file of ours needs one.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ComposerError(None, None, "aliases (*name) are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a name must be a text", key.start_mark)
            if key.value in seen:
                raise ConstructorError(
                    None, None, f"{key.value!r} stands here twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        # 1:1:1:... is a number in base 60, whose digits cost the square of their count.
        if node.tag in _NUMBERS and len(node.value) > _MOST_DIGITS:
            raise ConstructorError(None, None, "is too long for a number", node.start_mark)
        return super().construct_scalar(node)


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_MOST_DIGITS = 400


class _Dumper(yaml.SafeDumper):
    """Quotes a text that our loader would take for a number, such as the digest 68e504546919."""


for _side in (_Loader, _Dumper):
    # PyYAML follows YAML 1.1, where "1e-4" without a dot is a string.
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(
            r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
            r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+0123456789."),
    )

MOST_BYTES = 4_000_000
"""A bundle of 100,000 classes with long names has as many."""


def read_yaml(path: Path, *, follow_link: bool = True) -> Any:
    """The document in `path`. ValueError names file, line and reason.

    `follow_link` is for a path that the user typed, not for a file in a folder that they typed.
    """
    try:
        content = read_regular(path, most_bytes=MOST_BYTES, follow_link=follow_link)
        text = content.decode("utf-8")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    return parse_yaml(text, source=str(path))


def read_yaml_with_lines(path: Path) -> tuple[Any, dict[str, int]]:
    """The same, and in which line each of its keys stands."""
    document = read_yaml(path)
    loader = _Loader(path.read_text(encoding="utf-8"))
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return document, {str(key.value): key.start_mark.line + 1 for key, _ in pairs}


def parse_yaml(text: str, *, source: str) -> Any:
    """The document in `text`; `source` is named in errors."""
    try:
        loader = _Loader(text)  # refuses control characters
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = error.problem or error.context
        if "'\\t'" in str(problem):
            problem = "a tab cannot indent or stand between words in YAML; use blanks"
        raise ValueError(f"{where}: {problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{source}: is not YAML: {error}") from error


def dump_yaml(document: Any) -> str:
    """`document` as YAML in the given key order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
