"""What a file holds, in 64 digits."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """In hexadecimal, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
