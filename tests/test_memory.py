"""Memory stays flat: a sweep of thousands of trials must not grow with each."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from command_line import COMMAND, environment
from suites import write_suite

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.thorough]


def finished_trials(folder: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{folder / 'studies.db'}?mode=ro", uri=True)) as studies:
            query = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')"
            return studies.execute(query).fetchone()[0]
    except sqlite3.Error:  # not made yet
        return 0


def resident_mib(driver: psutil.Process) -> dict[str, float]:
    """Of the driver, and of the largest worker that trains."""
    workers = [
        child.memory_info().rss / 2**20
        for child in driver.children(recursive=True)
        if "ray::" in (title := " ".join(child.cmdline()))
        and not title.startswith(("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent"))
    ]
    return {"driver": driver.memory_info().rss / 2**20, "worker": max(workers, default=0.0)}


def test_after_200_trials_nothing_holds_a_tenth_more_than_after_20(tmp_path):
    suite = write_suite(tmp_path / "suite")
    folder = tmp_path / "sweep"
    # 240 trials, so that after 200 the workers are still at work.
    wishes = ["--backbone", "vit_quickstart", "--method", "vpt_deep", "--trials", "120"]
    wishes += ["--epochs", "2", "--pruner", "none", "--sampler", "random"]
    driver = subprocess.Popen(
        [*COMMAND, "sweep", str(suite), *wishes, "--out", str(folder)],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    held: dict[int, dict[str, float]] = {}
    deadline = time.monotonic() + 400
    try:
        for count in (20, 200):
            while finished_trials(folder) < count:
                assert driver.poll() is None, driver.stderr.read()
                assert time.monotonic() < deadline, f"{finished_trials(folder)} trials"
                time.sleep(0.1)
            held[count] = resident_mib(psutil.Process(driver.pid))
    finally:
        driver.terminate()
        driver.communicate(timeout=300)
    print(held, file=sys.stderr)
    for who, mib in held[200].items():
        assert held[20][who] > 0
        assert mib <= 1.1 * held[20][who], f"{who}: {held}"
