"""Work that takes long says what it is and how far it is, to whoever looks."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from suites import write_suite

from orchestrator.api.requests import PlanRequest
from orchestrator.api.sweep import Sweep
from orchestrator.run.request import RunRequest
from orchestrator.support.phases import Phase, PhaseLines, Watch, each, phase, told_to


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """Every phase that was told, with what it had counted when it ended."""

    def __init__(self) -> None:
        self.open: list[Phase] = []
        self.told: list[str] = []

    def begin(self, phase: Phase) -> None:
        self.open.append(phase)

    def end(self, phase: Phase) -> None:
        assert self.open.pop() is phase, "what began last ends first"
        count = "" if phase.total is None else f": {phase.done} of {phase.total}"
        self.told.append(f"{phase.what}{count}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_phase_says_what_it_counts_and_about_how_long_it_takes(clock):
    decoding = Phase("decoding images", 5000, clock=clock)
    assert str(decoding) == "decoding images: 0 of 5,000"
    clock.now = 1.0
    decoding.advance(1000)
    assert decoding.seconds_left() is None, "too early to say"
    clock.now = 3.0
    assert str(decoding) == "decoding images: 1,000 of 5,000, about 12 s left"
    assert str(Phase("starting Ray", clock=clock)) == "starting Ray"


def test_a_log_has_a_line_when_work_turns_out_long_and_then_one_every_half_minute(clock):
    lines: list[str] = []
    shown = PhaseLines(lines.append, clock=clock)
    outer = Phase("preparing tasks", 3, clock=clock)
    shown.phases = [outer]
    for second in range(100):
        clock.now = float(second)
        if second == 20:
            outer.advance()
            shown.phases.append(Phase("decoding", clock=clock))
        shown.look()
    assert lines == [
        "preparing tasks: 0 of 3 ...",
        "preparing tasks: 1 of 3, about 64 s left · decoding ...",
        "preparing tasks: 1 of 3, about 2 min left · decoding ...",
        "preparing tasks: 1 of 3, about 3 min left · decoding ...",
    ]


def test_what_is_short_has_no_line(clock):
    lines: list[str] = []
    shown = PhaseLines(lines.append, clock=clock)
    for _ in range(100):
        shown.phases = [Phase("decoding", clock=clock)]
        clock.now += 0.5
        shown.look()
    assert lines == []


class Looks(Watch):
    every_seconds = 0.001

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.looked = threading.Event()
        self.times_over = 0

    def look(self) -> None:
        self.seen.append(str(self.phases[-1]))
        self.looked.set()

    def over(self) -> None:
        self.times_over += 1


def test_a_watch_looks_while_the_work_goes_on_and_stops_with_it():
    shown = Looks()
    with told_to(shown), phase("outer"):
        assert shown.looked.wait(10)
        shown.looked.clear()
        with pytest.raises(KeyboardInterrupt), phase("inner", 7) as inner:
            inner.advance(2)
            assert shown.looked.wait(10)
            raise KeyboardInterrupt
        assert shown.times_over == 0
    assert shown.times_over == 1
    assert shown.phases == []
    assert "outer" in shown.seen and "inner: 2 of 7" in shown.seen


def test_items_are_counted_as_they_are_taken_and_nobody_has_to_look():
    assert list(each("counting", "abc", 3)) == ["a", "b", "c"]
    recorder = Recorder()
    with told_to(recorder):
        assert list(each("counting", "abc", 3)) == ["a", "b", "c"]
        with told_to(None), phase("in silence"):
            pass
    assert recorder.told == ["counting: 3 of 3"]


Planning = tuple[list[str], list[str], Sweep]


@pytest.fixture(scope="module")
def planning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planning]:
    """What a dry run of two tasks told while it worked, and what it said."""
    tmp = tmp_path_factory.mktemp("planning")
    recorder, said = Recorder(), []
    with pytest.MonkeyPatch.context() as patch, told_to(recorder):
        patch.setenv("ORCHESTRATOR_CACHE", str(tmp / "cache"))
        planned = _dry_run(write_suite(tmp / "suite", ("colours_a",)), tmp, said)
    yield recorder.told, said, planned


def _dry_run(suite: Path, tmp: Path, said: list[str]) -> Sweep:
    request = PlanRequest(
        suite=str(suite),
        backbone="vit_quickstart",
        methods=("linear", "vpt_deep"),
        trials=1,
        epochs=2,
        out=tmp / "sweep",
    )
    return Sweep.planned(request, RunRequest(engine="local"), dry_run=True, say=said.append)


def test_a_plan_tells_each_of_its_phases_and_counts_images(planning):
    told, _, _ = planning
    for expected in (
        "loading PyTorch",
        "looking for machines",
        "loading the backbone vit_quickstart",
        "trying the search spaces on the backbone: 2 of 2",
        "checking the images, tasks: 1 of 1",
        "preparing the images, tasks: 1 of 1",
    ):
        assert expected in told, told
    assert any(one.startswith("reading the lists and folders of ") for one in told)
    assert "colours_a train, decoding: 24 of 24" in told, told
    assert "train800.txt, writing decoded images: 24 of 24" in told, told


def test_a_sweep_that_was_never_run_is_not_finalized_and_no_folder_is_left(planning):
    _, _, planned = planning
    with pytest.raises(ValueError, match="was planned and not run yet"):
        planned.finalize()
    assert not planned.folder.exists()


@pytest.mark.slow
def test_a_search_and_its_last_stage_tell_each_of_their_phases(planning, monkeypatch):
    _, _, planned = planning
    recorder, said = Recorder(), []
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(planned.cache.root))
    monkeypatch.setattr("orchestrator.api.sweep.say", said.append)
    with told_to(recorder):
        outcome = planned.run(engine="local")
        assert outcome.num_finished == 2
        planned.finalize(engine="local", finalists=1, folds=2, seeds=[1])
    for expected in (
        "starting workers, until the first epoch is over",
        "writing best configurations, tasks: 1 of 1",
        "sending what is left to MLflow",
        "bringing MLflow up to date",
        "opening the test images, tasks: 1 of 1",
        "checking the weights of the backbone",
        "writing tables and bundles",
    ):
        assert expected in recorder.told, recorder.told
    (runs,) = [one for one in recorder.told if one.startswith("runs of the last stage")]
    done, total = runs.rpartition(": ")[2].split(" of ")
    assert done == total == "6"
    assert said[0].startswith("last stage of 2 of 2 studies: 6 runs at most, of 2 epochs each")
    assert any(line.startswith(f"[{done}/{total}] ") for line in said)
