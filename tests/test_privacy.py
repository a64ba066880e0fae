"""Which files of a user are open to others is told with what closes them, and never shown."""

from pathlib import Path

import pytest

from orchestrator.support.privacy import open_things, token_file, warn_of_open_token


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in (*tmp_path.parents, tmp_path):
        if path.name.startswith("pytest-") or path == tmp_path:
            path.chmod(0o755)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    found = tmp_path / "home"
    found.mkdir(mode=0o755)
    monkeypatch.setenv("HOME", str(found))
    return found


def write_token(home: Path, mode: int) -> Path:
    (home / ".ray").mkdir(mode=0o755)
    token = home / ".ray" / "auth_token"
    token.write_text("5ecre7")
    token.chmod(mode)
    return token


def test_a_token_that_others_can_read_is_named_and_not_shown(home: Path, caplog):
    token = write_token(home, 0o644)
    (line,) = open_things()
    assert f"chmod 600 {token}" in line
    warn_of_open_token()
    assert f"chmod 600 {token}" in caplog.text
    assert "5ecre7" not in caplog.text + line


@pytest.mark.parametrize(("mode", "home_mode"), [(0o600, 0o755), (0o644, 0o700)])
def test_a_token_behind_a_closed_door_is_not(home: Path, caplog, mode: int, home_mode: int):
    write_token(home, mode)
    home.chmod(home_mode)
    assert open_things() == []
    warn_of_open_token()
    assert not caplog.text


def test_a_home_that_others_can_write_to_is_told(home: Path):
    home.chmod(0o777)
    (line,) = open_things()
    assert f"chmod go-w {home}" in line


def test_a_token_in_the_environment_is_read_from_no_file(home: Path, monkeypatch):
    write_token(home, 0o644)
    assert token_file() is not None
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    assert token_file() is None
