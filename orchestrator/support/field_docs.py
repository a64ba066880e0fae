"""The docstrings that stand below the fields of a dataclass."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Mapping


@functools.cache
def field_docs(kind: type) -> Mapping[str, str]:
    """By field, in one line each; a field without a docstring is left out.

    Python throws these docstrings away, so they are read from the source of the class.
    """
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, below in zip(definition.body, definition.body[1:], strict=False):
        match statement, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
