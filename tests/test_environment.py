"""docs/environment.md names every variable that the code reads."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "environment.md").read_text()
OURS = re.compile(r"(?:ORCHESTRATOR|XDG|RAY|CUBLAS|TORCHINDUCTOR|OMP)_[A-Z_]+|NO_PROXY")
OF_LIBRARIES = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",  # Ray's switches, that its engine turns for itself
    "RAY_AIR_NEW_OUTPUT",
    "RAY_USAGE_STATS_ENABLED",
}


def variables_of(path: Path) -> set[str]:
    """Texts of a file that are the name of a variable, whole."""
    tree = ast.parse(path.read_text())
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return {text for text in texts if isinstance(text, str) and OURS.fullmatch(text)}


def test_every_variable_of_the_code_is_in_the_table_and_the_reverse():
    read = set().union(*(variables_of(path) for path in (ROOT / "orchestrator").rglob("*.py")))
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", PAGE))
    assert sorted(read - OF_LIBRARIES - named) == []
    assert (
        sorted(name for name in named if name.startswith("ORCHESTRATOR_") if name not in read) == []
    )
