"""How often each class is right: a high accuracy may be that of one class alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.report.collect import StudyReport
from orchestrator.report.table import Cell, Row, Table
from orchestrator.support.shown_values import NOTHING
from orchestrator.support.uncertainty import EXPLAINED, accuracy_text, seeds_text

NOT_KEPT = (
    "Accuracy by class was not kept: its trial was run by an older version, or there are very many "
    "classes."
)


@dataclass(frozen=True, kw_only=True)
class _Class:
    name: str
    num_val: int
    val_right: int
    num_test: int
    test_right: list[int]
    """By seed; empty where the study was not finalized."""

    @property
    def rank(self) -> tuple[float, int]:
        """By test images where there are any, else by val images; the worst first."""
        if self.num_test and self.test_right:
            return sum(self.test_right) / len(self.test_right) / self.num_test, -self.num_test
        # A class without images is neither good nor bad.
        return (self.val_right / self.num_val, -self.num_val) if self.num_val else (2.0, 0)


def class_table(study: StudyReport) -> Table | None:
    """How the chosen trial of a study does per class, the worst class first; None where it was not
    kept."""
    classes = list(_classes(study))
    if study.chosen is None or not classes:
        return None
    tested = any(one.test_right for one in classes)
    columns = ["class", "val images", "right", "val %"]
    return Table(
        title=f"Accuracy of trial #{study.chosen.number} by class",
        columns=[*columns, *(["test images", "test %"] if tested else [])],
        rows=[
            Row(cells=[Cell(text=text) for text in _cells(one, tested)])
            for one in sorted(classes, key=lambda one: one.rank)
        ],
        notes=[
            "val %: of the trial of the search."
            + (" test %: mean and standard deviation over the seeds." if tested else "")
            + f" {EXPLAINED}"
        ],
    )


def _classes(study: StudyReport) -> Iterator[_Class]:
    facts = study.chosen.facts if study.chosen else {}
    images, right = (facts.get(f"val_{kind}_by_class") for kind in ("images", "correct"))
    if not images or not right:
        return
    final = study.final
    tested = list(final.test_correct_by_class.values()) if final else []
    num_test = list(final.test_images_by_class) if final else []
    for label in range(len(images)):
        names = study.task.class_names
        yield _Class(
            name=names[label] if names else f"class {label}",
            num_val=images[label],
            val_right=right[label],
            num_test=num_test[label] if tested else 0,
            test_right=[counts[label] for counts in tested],
        )


def _cells(one: _Class, tested: bool) -> Iterator[str]:
    yield one.name
    yield str(one.num_val)
    yield str(one.val_right)
    yield accuracy_text(one.val_right / one.num_val, one.num_val) if one.num_val else NOTHING
    if tested:
        yield str(one.num_test)
        shares = [right / one.num_test for right in one.test_right] if one.num_test else []
        yield seeds_text(shares, one.num_test) if shares else NOTHING
