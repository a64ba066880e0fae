"""What is said of a line that no command understands: one line, with what would work."""

import re
from typing import Any

import typer

from orchestrator.support.did_you_mean import did_you_mean, unknown
from orchestrator.support.options import KIND_WORDS, range_text


def usage_line(error: typer.TyperException) -> str:
    """Empty where the help was shown already."""
    text, context = error.format_message().strip().rstrip("."), getattr(error, "ctx", None)
    text = text[:1].lower() + text[1:]
    if context is None or not text:
        return text
    command, parameter = context.command, getattr(error, "param", None)
    see = f"`{context.command_path} --help` lists them"
    if typed := getattr(error, "option_name", None):
        known = [flag for one in command.params for flag in (*one.opts, *one.secondary_opts)]
        if typed not in known:
            return f"{did_you_mean('option', typed, known) or f'unknown option {typed!r}'} ({see})"
    elif named := re.match(r"no such command (['\"])(.*?)\1", text):
        return f"{unknown('command', named[2], command.commands)} ({see})"
    elif text.startswith("missing") and parameter is not None:
        return f"{text}: {parameter.help.rstrip('.')} (`{context.command_path} --help` says more)"
    elif parameter is not None and hasattr(error.__cause__, "errors"):
        return _refused(parameter, error.__cause__)
    return f"{text} (`{context.command_path} --help` says more)"


def _refused(parameter: Any, cause: Any) -> str:
    """Pydantic says what it expected; not what it found, nor in which bounds."""
    found, kind = cause.errors()[0]["input"], parameter.type_descriptor
    flag = parameter.opts[0]
    if kind.choices:
        return unknown(
            f"value of {flag}",
            str(found),
            [str(getattr(one, "value", one)) for one in kind.choices],
        )
    limits = range_text(parameter.min, parameter.max)
    expected = KIND_WORDS.get(kind.annotation, "another value")
    return f"{flag}: expected {expected}{f', {limits}' if limits else ''}, found {found!r}"
