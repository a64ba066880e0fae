"""Addresses of servers and databases in messages and logs: never with a password or a token."""

import re

MAX_CHARACTERS = 300
"""The most characters that are shown of an error's reason; a library may append a whole page to its
own."""


def redacted(text: str) -> str:
    """`text` without the passwords and tokens that addresses in it may carry."""
    text = re.sub(r"(?<=://)[^/\s]*@", "***@", text)
    return re.sub(r"(?i)(password|passwd|token|secret)=[^&\s]+", r"\1=***", text)


def reason_of(error: Exception) -> str:
    """Kind and first line of an error, without passwords, in at most `MAX_CHARACTERS`."""
    text = redacted(f"{type(error).__name__}: {error}").splitlines()[0]
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"
