"""How good a bundle was on labelled images, as tables on a terminal."""

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table

from orchestrator.cli.terminal import Terminal
from orchestrator.support.counted import counted
from orchestrator.support.uncertainty import accuracy_text

if TYPE_CHECKING:
    from orchestrator.bundle.evaluation import ClassResult, Evaluation

MOST_CLASSES_IN_A_MATRIX = 15
MOST_CLASSES_IN_A_TABLE = 40
SHOWN_OF_MORE = 20
SHORT_NAME = 8
"""Cells of a class's name that may stand above a column of numbers."""
NOTHING = "–"


def print_evaluation(found: "Evaluation", on: Terminal) -> None:
    """Accuracy with how sure it is, by class, and what was taken for what."""
    on.print()
    on.print_table(_measures(found))
    on.print()
    _print_classes(found, on)
    _print_confusion(found, on)


def _measures(found: "Evaluation") -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    chosen_by = "what the bundle was chosen by"
    images = f"of {counted(found.num_images, 'image')}"
    is_top1 = found.metric == "top1"
    guess = "always answering the most frequent class"
    if found.interval[0] <= found.majority_share:
        guess += ": no worse, as far as so few images tell"
    for name, value, note in (
        ("accuracy", f"{found.accuracy_text} %", images),
        (
            "mean per-class accuracy",
            f"{found.mean_per_class_text} %",
            "" if is_top1 else chosen_by,
        ),
        ("macro-F1", f"{found.macro_f1:.4f}", "mean of the F1 of the classes"),
        (
            "majority",
            f"{100 * found.majority_share:.1f} %",
            guess,
        ),
    ):
        table.add_row(name, value, note)
    return table


def _print_classes(found: "Evaluation", on: Terminal) -> None:
    classes = [one for one in found.classes if one.num_images or one.num_predicted]
    left_out = len(found.classes) - len(classes)
    shown = classes
    if len(classes) > MOST_CLASSES_IN_A_TABLE:
        shown = sorted(classes, key=_badness)[:SHOWN_OF_MORE]
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for name in ("images", "right", "accuracy %", "precision %", "F1"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in shown:
        table.add_row(
            one.class_name,
            f"{one.num_images:,}",
            f"{one.num_right:,}",
            NOTHING if one.accuracy is None else accuracy_text(one.accuracy, one.num_images),
            NOTHING if one.precision is None else f"{100 * one.precision:.1f}",
            NOTHING if one.f1 is None else f"{one.f1:.3f}",
        )
    on.print_table(table)
    if len(shown) < len(classes):
        on.print(f"the {len(shown)} worst of {len(classes):,} classes; --json has all")
    if left_out:
        on.print(f"{left_out:,} of {len(found.classes):,} classes have no image here")
    on.print()


def _badness(one: "ClassResult") -> tuple[float, int]:
    return (2.0 if one.accuracy is None else one.accuracy), -one.num_images


def _print_confusion(found: "Evaluation", on: Terminal) -> None:
    mistakes = found.most_confused()
    if not mistakes:
        on.print("no class was taken for another one")
        return
    if len(found.class_names) <= MOST_CLASSES_IN_A_MATRIX:
        matrix = _matrix(found)
        if not on.is_terminal or on.whole_width(matrix) <= on.width:
            on.print("images by true class (rows) and by what they were taken for (columns):")
            on.print_table(matrix)
            return
    table = Table("true class", "taken for", box=None, pad_edge=False)
    table.add_column("images", justify="right")
    for one in mistakes[:SHOWN_OF_MORE]:
        table.add_row(one.true_class, one.predicted_class, f"{one.num_images:,} of {one.of:,}")
    on.print("what was taken for what most often:")
    on.print_table(table)
    if len(mistakes) > SHOWN_OF_MORE:
        on.print(f"and {len(mistakes) - SHOWN_OF_MORE:,} more pairs; --json has all")


def _matrix(found: "Evaluation") -> Table:
    """Columns under the names of their classes; under numbers, which the rows name, if these are
    long."""
    names = found.class_names
    are_short = max(map(cell_len, names)) <= SHORT_NAME
    heads = names if are_short else [str(label) for label in range(len(names))]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for head, name, row in zip(heads, names, found.confusion.tolist(), strict=True):
        numbers = (f"{number:,}" if number else "·" for number in row)
        table.add_row(name if are_short else f"{head:>2} {name}", *numbers)
    return table
