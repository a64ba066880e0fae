"""A worker without the driver's disk trains the same trial: what it needs comes once per node."""

import copy
import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from suites import write_task
from trials import context_of, trial_config

from orchestrator.data.cache import ImageCache, open_search_splits
from orchestrator.data.vtab import read_vtab_task
from orchestrator.run.queue import Run
from orchestrator.run.ray.files import _Files
from orchestrator.run.worker_loop import WorkerLoop
from orchestrator.support.whole_file import write_whole
from orchestrator.training.backbone import image_transform
from orchestrator.training.context import TrialContext
from orchestrator.training.driver_files import DriverFiles, store_weights
from orchestrator.training.trial import Trial
from orchestrator.training.worker_cache import WorkerCache


class FolderCarrier:
    """The driver's cache on the same disk; every fetch is written down, as by several processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.damage_first = False

    def fetch(self, name: str) -> tuple[str, Iterable[memoryview]]:
        content = (self.root / name).read_bytes()
        first = not self.fetched()
        with (self.root / "fetched").open("a") as log:
            log.write(f"{name}\n")
        sha256 = hashlib.sha256(content).hexdigest()
        if first and self.damage_first:
            content = content[:-1]
        return sha256, [memoryview(content[:1000]), memoryview(content[1000:])]

    def keep(self, path: str, content: bytes) -> None:
        write_whole(Path(path), content)

    def fetched(self) -> list[str]:
        log = self.root / "fetched"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def context(tmp_path: Path) -> TrialContext:
    """Of a driver that has its images beside it."""
    task = read_vtab_task(write_task(tmp_path / "images" / "colours"))
    return replace(context_of(task, tmp_path / "driver"), checkpoint_seconds=0)


@pytest.fixture
def carrier(context: TrialContext) -> FolderCarrier:
    return FolderCarrier(Path(context.cache_folder))


@pytest.fixture
def elsewhere(
    context: TrialContext, carrier: FolderCarrier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrialContext:
    """The same, on a node that has a cache of its own and none of the images."""
    (task,) = context.tasks.values()
    cache = ImageCache(carrier.root)
    decoded = open_search_splits(task, image_transform(context.backbone), cache)
    splits = {name: str(split.path.relative_to(carrier.root)) for name, split in decoded.items()}
    weights = store_weights(context.backbone, carrier.root)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "node"))
    return replace(
        context, driver_files=DriverFiles(carrier, {task.name: splits}, weights, "sweep")
    )


def train(context: TrialContext, number: int, folder: Path) -> tuple[list[float], bytes]:
    (task,) = context.tasks
    config = trial_config(task, "vpt", number=number, num_tokens=2, epochs=2, warmup_epochs=1)
    checkpoint = folder / f"{task}.vpt" / f"{number}.checkpoint"
    trial = Trial(config, context, WorkerCache(2**28), checkpoint=checkpoint)
    accuracies = [row["val_accuracy"] for row in trial.epochs()]
    trial.save(checkpoint.with_suffix(".safetensors"))
    return accuracies, checkpoint.with_suffix(".safetensors").read_bytes()


def test_a_trial_without_the_images_is_the_same_trial(
    context: TrialContext, elsewhere: TrialContext, carrier: FolderCarrier, tmp_path: Path
):
    beside = train(context, 0, tmp_path / "beside")
    shutil.rmtree(tmp_path / "images")
    assert train(elsewhere, 0, tmp_path / "trials") == beside
    assert len(carrier.fetched()) == 3  # train, val, backbone
    train(elsewhere, 1, tmp_path / "trials")
    assert len(carrier.fetched()) == 3, "a second trial of the node fetched again"


def test_checkpoints_stay_on_the_node_and_go_with_their_trial(
    elsewhere: TrialContext, tmp_path: Path
):
    for number in (0, 1):
        train(elsewhere, number, tmp_path / "trials")
        kept = [path.name for path in (tmp_path / "node" / "checkpoints").rglob("*.checkpoint")]
        assert kept == [f"{number}.checkpoint"]
    assert not list((tmp_path / "trials").rglob("*.checkpoint"))


def test_a_worker_leaves_the_checkpoint_that_another_of_its_node_goes_on_with(
    elsewhere: TrialContext, tmp_path: Path
):
    """A frozen trial goes on in any worker of the node; then the first gets another one."""
    first, second = copy.copy(elsewhere.driver_files), copy.copy(elsewhere.driver_files)
    assert first is not None and second is not None
    asked = [tmp_path / "trials" / "study" / f"{number}.checkpoint" for number in range(3)]
    here = first.checkpoint(asked[0])
    write_whole(here, b"epoch 1")
    first.checkpoint_written()
    time.sleep(0.02)  # file systems count in some milliseconds
    assert second.checkpoint(asked[0]) == here
    first.checkpoint(asked[1])
    assert here.read_bytes() == b"epoch 1"
    write_whole(here, b"epoch 2")
    second.checkpoint_written()
    second.checkpoint(asked[2])
    assert not here.exists()


def test_a_frozen_trial_whose_checkpoint_is_gone_does_not_begin_again_without_a_word(
    elsewhere: TrialContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (task,) = elsewhere.tasks
    config = trial_config(task, "vpt", number=3, num_tokens=2, epochs=2, warmup_epochs=1)
    run = Run(Trial, config, str(tmp_path / "trials" / config.study / "3"), goes_on_after=1)
    files = elsewhere.driver_files
    assert files is not None
    loop = WorkerLoop(elsewhere)
    write_whole(files.checkpoint(run.checkpoint), b"epoch 1")
    loop.begin(run)
    assert not caplog.records
    files.checkpoint(run.checkpoint).unlink()
    loop.begin(replace(run, goes_on_after=0))
    assert not caplog.records
    loop.begin(run)
    assert (
        "#3: its checkpoint is gone, the trial begins again instead of going on after epoch 1"
        in caplog.text
    )


def test_what_arrives_damaged_or_is_damaged_later_is_fetched_again(
    elsewhere: TrialContext, carrier: FolderCarrier
):
    carrier.damage_first = True
    (task,) = elsewhere.tasks
    first = elsewhere.search_splits(task)["train"]
    expected, path = first.images.copy(), first.path
    assert len(carrier.fetched()) == 3  # train twice, val
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert (elsewhere.search_splits(task)["train"].images == expected).all()
    assert len(carrier.fetched()) == 4


def _open(context: TrialContext) -> int:
    (task,) = context.tasks
    assert context.driver_files is not None
    context.driver_files.weights()
    return len(context.search_splits(task)["train"])


def test_processes_of_a_node_share_one_copy(elsewhere: TrialContext, carrier: FolderCarrier):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert set(pool.map(_open, [elsewhere] * 6)) == {24}
    assert len(carrier.fetched()) == len(set(carrier.fetched())) == 3


def test_a_search_cannot_ask_for_test_images(elsewhere: TrialContext):
    (task,) = elsewhere.tasks
    assert elsewhere.driver_files is not None
    with pytest.raises(KeyError):
        elsewhere.driver_files.splits(task, ["test"], elsewhere.transform)


def test_the_driver_gives_out_and_takes_in_only_what_was_agreed(tmp_path: Path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "secret").write_text("x")
    files = _Files(str(tmp_path / "cache"), frozenset(), str(tmp_path / "trials"))
    with pytest.raises(KeyError):
        files.parts("secret")
    files.keep(str(tmp_path / "trials" / "s" / "1.safetensors"), b"x")
    assert (tmp_path / "trials" / "s" / "1.safetensors").read_bytes() == b"x"
    for outside in (tmp_path / "other", tmp_path / "trials" / ".." / "other"):
        with pytest.raises(ValueError, match="is not below"):
            files.keep(str(outside), b"x")
