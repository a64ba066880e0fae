"""Which classes the tested winner takes for which, from what the last stage kept when it tested."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from orchestrator.report.collect import StudyReport
from orchestrator.report.figure import Figure
from orchestrator.report.svg import Chart, LinearScale, clipped
from orchestrator.report.table import Cell, Row, Table
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import number_text
from orchestrator.training.confusion import ALL_UP_TO, MOST_PAIRS

LEFT, TOP = 84, 62
"""Where the names of the classes stand."""
SIZE = 262
NAMES_UP_TO, NUMBERS_UP_TO = 30, 12
"""Of more classes neither names nor numbers can be read; pointing at a cell tells both."""
DIGIT = 6
"""Pixels that a digit takes; a number that is wider than its cell is told by pointing alone."""
LEVELS = 10

NOT_KEPT = "Which classes are taken for which was not kept by the version that tested it."


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Of all seeds together."""

    names: Sequence[str]
    """Of the classes, by label."""
    images: Sequence[int]
    """Test images by label; empty where there are too many classes."""
    wrong: Mapping[tuple[int, int], float]
    """(label, answer): images, mean over the seeds; the most first. Without the pairs that not
    every seed has told, where only the most frequent of each were kept."""
    right: Sequence[float]
    """By label, mean over the seeds; empty where there are too many classes."""
    num_seeds: int
    num_wrong: int
    """Answers, of all seeds together, whether their pairs stand in `wrong` or not."""

    @property
    def why_none(self) -> str:
        """Where no pair can be shown."""
        if not self.num_wrong:
            return "No test image was given a wrong class."
        return (
            "Which classes are taken for which differs from seed to seed: no pair is among the "
            f"{MOST_PAIRS} most frequent of each."
        )

    def told(self, label: int, answer: int) -> str:
        return f"{self.names[label]} taken for {self.names[answer]}"


def confusion_of(study: StudyReport) -> Confusion | None:
    """None where the study was not tested, or by a version that did not keep it."""
    final, num_classes = study.final, study.task.num_classes
    if final is None or not final.test_confused:
        return None
    total: Counter[tuple[int, int]] = Counter()
    kept: list[set[tuple[int, int]]] = []
    for pairs in final.test_confused.values():
        kept.append({(label, answer) for label, answer, _ in pairs})
        for label, answer, images in pairs:
            total[label, answer] += images
    num_seeds = len(final.test_confused)
    right = final.test_correct_by_class
    counts = [right[seed] for seed in final.test_confused if seed in right]
    return Confusion(
        names=study.task.class_names or [f"class {label}" for label in range(num_classes)],
        images=final.test_images_by_class,
        wrong={
            pair: images / num_seeds
            for pair, images in total.most_common()
            if num_classes <= ALL_UP_TO or all(_tells(told, pair) for told in kept)
        },
        right=[sum(each) / len(counts) for each in zip(*counts, strict=True)] if counts else [],
        num_seeds=num_seeds,
        num_wrong=total.total(),
    )


def _tells(kept: Set[tuple[int, int]], pair: tuple[int, int]) -> bool:
    """Whether it is known how many images a seed has of the pair: one that kept few kept all."""
    return pair in kept or len(kept) < MOST_PAIRS


def confusion_matrix(found: Confusion) -> Figure | None:
    """A cell per pair of classes, as dark as the share of the class's images that it has."""
    number = len(found.names)
    if number > ALL_UP_TO or len(found.images) != number or len(found.right) != number:
        return None
    cell = SIZE / number
    scale = LinearScale(0, number, 0, SIZE)
    chart = Chart(scale, scale, "", "", width=LEFT + SIZE + 14, height=TOP + SIZE + 8)
    cells = {**found.wrong, **{(label, label): right for label, right in enumerate(found.right)}}
    for (label, answer), images in cells.items():
        of_class = found.images[label]
        if not of_class or not images:
            continue
        x, y, share = LEFT + cell * answer, TOP + cell * label, images / of_class
        is_right = label == answer
        told = f"{found.names[label]}, right" if is_right else found.told(label, answer)
        level = max(1, round(LEVELS * share))
        kind = f"{'right' if is_right else 'wrong'} level{level}"
        name = f"{told}: {number_text(images)} of {counted(of_class, 'image')}, {100 * share:.1f} %"
        chart.bar_at(x, y, cell - 0.5, cell - 0.5, kind, name)
        in_cell = f"{images:.0f}" if images >= 100 else f"{images:.1f}".removesuffix(".0")
        if number <= NUMBERS_UP_TO and len(in_cell) * DIGIT < cell:
            strong = "tick deep" if is_right and share > 0.5 else "tick"
            chart.label(x + cell / 2, y + cell / 2 + 3.5, in_cell, strong, "middle")
    if number <= NAMES_UP_TO:
        for label, name in enumerate(found.names):
            middle = cell * (label + 0.5)
            chart.label(LEFT - 5, TOP + middle + 3.5, clipped(name, 13), "tick", "end")
            chart.turned_label(LEFT + middle + 3.5, TOP - 5, clipped(name, 11), "tick")
    chart.rule((LEFT, TOP - 1), (LEFT + SIZE, TOP - 1))
    chart.rule((LEFT - 1, TOP), (LEFT - 1, TOP + SIZE))
    pairs = ", ".join(found.told(*pair) for pair in list(found.wrong)[:3]) or "none"
    return Figure(
        title="Which classes are taken for which",
        svg=chart.draw(f"Confusion of {counted(number, 'class')}; most often: {pairs}", axes=False),
        caption="Rows: the class of test images; columns: the answer; images, mean over "
        f"{counted(found.num_seeds, 'seed')}. Blue: right, orange: wrong; the stronger, the larger "
        "the share of the class.",
    )


def confused_table(found: Confusion) -> Table:
    """The pairs that are confused most."""
    rows = []
    is_cut = len(found.names) > ALL_UP_TO
    for (label, answer), images in list(found.wrong.items())[:MOST_PAIRS]:
        of_class = found.images[label] if found.images else 0
        share = [f"{100 * images / of_class:.1f}"] if of_class else []
        texts = [found.names[label], found.names[answer], number_text(images), *share]
        rows.append(Row(cells=[Cell(text=text) for text in texts]))
    return Table(
        title="Classes that are confused most",
        columns=["class", "taken for", "test images", *(["% of class"] if found.images else [])],
        rows=rows,
        notes=[
            f"test images: mean over {counted(found.num_seeds, 'seed')} of the last stage"
            + (f"; pairs that are among the {MOST_PAIRS} most frequent of each." if is_cut else ".")
        ],
        wordy=frozenset({"taken for"}),
    )
