"""A password in the address of a storage is written nowhere."""

import shutil
import tempfile
from pathlib import Path

import pytest
from commands import ONE_SLOT, running
from postgres import PASSWORD, PostgreSQL
from story import Story, assert_nowhere, story_of

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.slow, pytest.mark.thorough]


def test_a_password_is_in_no_file_and_in_no_output(
    postgres: PostgreSQL, sweep_folder: Path, workshop: Path, tmp_path: Path, undisturbed: Story
):
    kept = tmp_path / "logs"
    kept.mkdir()
    # A short path: Ray makes sockets below it.
    logs = Path(tempfile.mkdtemp(prefix="ray-"))
    there = {"ORCHESTRATOR_STORAGE": postgres.url(), "RAY_TMPDIR": str(logs)}
    try:
        with running(
            "resume", sweep_folder, *ONE_SLOT, cache=workshop / "cache", environment=there
        ) as command:
            # Near the end, with which they are removed.
            command.wait_for_line(" 7/8 trials")
            for log in logs.rglob("session_2*/logs/*.*"):
                shutil.copy(log, kept)
            assert command.wait() == 0, command.output
        assert PASSWORD not in command.output
        assert (kept / "gcs_server.out").is_file(), "Ray wrote its logs there"
        for folder in (sweep_folder, kept, workshop / "cache"):
            assert_nowhere(PASSWORD, folder)
        assert not any(logs.iterdir()), "nothing is left"
        assert story_of(sweep_folder, postgres.url()) == undisturbed
    finally:
        shutil.rmtree(logs)
