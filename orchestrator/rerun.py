"""An exported configuration, trained again from its description alone."""

from dataclasses import replace
from pathlib import Path

from orchestrator.backbone import image_transform
from orchestrator.bundle import Bundle
from orchestrator.data.cache import ImageCache, task_fingerprint
from orchestrator.data.task import Task
from orchestrator.final_trial import FinalContext, FinalTrial
from orchestrator.plan import PrunerPlan
from orchestrator.residents import Residents
from orchestrator.suites import load_suite
from orchestrator.trial import Trial


def train_again(bundle: Bundle, *, data: Path | None, weights: Path | None) -> float:
    """Accuracy after the last epoch; on the same machine equal to `recorded_accuracy`.

    ValueError if images or weights are not those that the bundle was trained on.
    """
    task = find_task(bundle, data)
    backbone = bundle.backbone
    if weights is not None:
        backbone = replace(backbone, weights=str(weights.absolute()))
    found = task_fingerprint(task, image_transform(backbone))
    if found != bundle.data_fingerprint:
        raise ValueError(
            f"{task.root}: not the images that {bundle.task} was trained on "
            f"(fingerprint {found[:12]}, recorded {bundle.data_fingerprint[:12]})"
        )
    cache = ImageCache()
    context = FinalContext(
        backbone=backbone,
        tasks={task.name: task.for_search()},
        final_tasks={task.name: task} if bundle.stage == "final" else {},
        fingerprints={task.name: found},
        pruner=PrunerPlan(name="none", first_rung_epochs=1),
        cache_folder=str(cache.root),
        device="cpu" if bundle.device == "cpu" else "cuda",
        cpu_threads=bundle.cpu_threads,
        engine=bundle.engine,
    )
    residents = Residents(8 * 2**30)
    if bundle.stage == "final":
        final = FinalTrial(bundle.trial, context, residents)
        list(final.epochs())
        return final.facts()["test_accuracy"]
    return list(Trial(bundle.trial, context, residents).epochs())[-1]["val_accuracy"]


def find_task(bundle: Bundle, data: Path | None) -> Task:
    """The task of the bundle: in the suite it came from, or in the suite at `data`."""
    if data is None:
        suite = load_suite(
            bundle.suite,
            data_root=Path(bundle.data_root) if bundle.data_root else None,
            tasks=[bundle.task],
            seed=bundle.data_seed,
        )
    else:
        suite = load_suite(str(data), tasks=[bundle.task], seed=bundle.data_seed)
    (task,) = suite.tasks
    return task


def recorded_accuracy(bundle: Bundle) -> float:
    """On val, or of the final stage on test with the bundle's seed."""
    if bundle.stage == "final":
        return bundle.test_accuracies[bundle.trial.seed]
    assert bundle.val_accuracy is not None
    return bundle.val_accuracy
