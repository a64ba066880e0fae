"""An exported configuration, trained again from its description alone."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from orchestrator.bundle.bundle import Bundle
from orchestrator.bundle.own_task import task_of
from orchestrator.data.cache import ImageCache, task_fingerprint
from orchestrator.data.task import Task
from orchestrator.support.phases import each
from orchestrator.support.processors import available_cpus
from orchestrator.training.backbone import image_transform
from orchestrator.training.config import num_epochs
from orchestrator.training.context import TrialContext
from orchestrator.training.final_trial import FinalContext, FinalTrial
from orchestrator.training.own_methods import planned_methods
from orchestrator.training.trial import Trial
from orchestrator.training.worker_cache import WorkerCache

logger = logging.getLogger(__name__)


def train_again(bundle: Bundle, *, data: Path | None, weights: Path | None) -> float:
    """Accuracy after the last epoch; on the same machine equal to `recorded_accuracy`.

    ValueError if images or weights are not those that the bundle was trained on.
    """
    task = find_task(bundle, data)
    backbone = bundle.backbone
    if weights is not None:
        backbone = replace(backbone, weights=str(weights.expanduser().absolute()))
    kind = FinalContext if bundle.stage == "final" else TrialContext
    context = kind.of(
        backbone,
        [task],
        fingerprints={task.name: bundle.data_fingerprint},
        metrics={task.name: bundle.metric},
        cache=ImageCache(),
        device=_device_like(bundle),
        cpu_threads=_threads_like(bundle),
        engine=bundle.engine,
        own_methods=planned_methods({own.name: own} if (own := bundle.own_method) else {}),
    )
    worker_cache = WorkerCache(8 * 2**30)
    if isinstance(context, FinalContext):
        final = FinalTrial(bundle.trial, context, worker_cache)
        list(each("training, epochs", final.epochs(), _num_epochs(bundle)))
        tested = final.facts().test_accuracy
        assert tested is not None, "all epochs were run"
        return tested
    trial = Trial(bundle.trial, context, worker_cache)
    rows = list(each("training, epochs", trial.epochs(), _num_epochs(bundle)))
    return rows[-1]["val_accuracy"]


def _num_epochs(bundle: Bundle) -> int:
    trial = bundle.trial
    return num_epochs(trial.method, trial.config, source=bundle.task)


def _device_like(bundle: Bundle) -> str:
    """The kind of device that the bundle was trained on, or the CPU where there is none."""
    if bundle.device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    logger.warning("trained on %s, which is not here: training on the CPU instead", bundle.device)
    return "cpu"


def _threads_like(bundle: Bundle) -> int:
    """The number of threads to train with: as many as the bundle was trained with, or as there are
    CPUs for."""
    most = available_cpus()
    if bundle.cpu_threads > most:
        logger.warning(
            "trained with %d CPU threads, of which %d are here: sums are rounded otherwise, and "
            "the accuracy may differ",
            bundle.cpu_threads,
            most,
        )
    return min(bundle.cpu_threads, most)


def find_task(bundle: Bundle, data: Path | None) -> Task:
    """The task of the bundle: in the suite it came from, or in the suite at `data`.

    ValueError if its images are not those that the bundle was trained on.
    """
    task = task_of(bundle, data)
    found = task_fingerprint(task, image_transform(bundle.backbone))
    if found != bundle.data_fingerprint:
        raise ValueError(
            f"{task.root}: not the images that {bundle.task} was trained on "
            f"(fingerprint {found[:12]}, recorded {bundle.data_fingerprint[:12]})"
        )
    return task


def recorded_accuracy(bundle: Bundle) -> float:
    """On val, or of the final stage on test with the bundle's seed."""
    if bundle.stage == "final":
        return bundle.test_accuracies[bundle.trial.seed]
    assert bundle.val_accuracy is not None
    return bundle.val_accuracy
