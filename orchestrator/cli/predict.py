"""`predict`: images classified by an exported bundle."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.evaluation_tables import print_evaluation
from orchestrator.cli.options import Bundle, Json, WeightsOption
from orchestrator.cli.prediction_rows import STDOUT, Write, csv_rows, json_row, table_rows
from orchestrator.cli.terminal import Terminal
from orchestrator.support.counted import counted
from orchestrator.support.near import near
from orchestrator.support.phases import each, phase

if TYPE_CHECKING:
    from orchestrator.data.labelled_images import LabelledImages

console = Terminal()
errors = Terminal(stderr=True)

DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Where to compute: cpu, cuda, or cuda:1 for the second GPU.",
        show_default="default: a GPU if there is one",
        rich_help_panel="Machine",
    ),
]
CsvOption = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="Write a row for each image to this file (- is stdout) instead of printing it: image, "
        "label, class_name, probability, true_class, error.",
        rich_help_panel="Output",
    ),
]


def predict(
    bundle: Bundle,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="Image files, or folders, which are walked."),
    ],
    top: Annotated[int, typer.Option(min=1, help="Show so many of the most probable classes.")] = 1,
    csv: CsvOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """Classify images with an exported bundle, each as a viewer shows it.

        orchestrator predict SWEEP/best/photos.yaml new/*.jpg
        orchestrator predict SWEEP/best/photos.yaml new/ --csv new.csv

    One row per image. With --json a list of {"image", "label", "class_name", "probability", "top"},
    or of {"image", "error"} for a file that is no image. Folders are walked; what is left out
    there is said on stderr. Of a folder that holds a folder for each class, the accuracy is told as
    `evaluate` does. Exit code 1: some images could not be classified; 2: none could.
    """
    from orchestrator.data.image_paths import Unreadable, find_images
    from orchestrator.training.objective import DEFAULT_METRIC

    if as_json and csv == STDOUT:
        raise ValueError("--json and --csv - both write to stdout: give --csv a file, or one alone")
    with phase("reading the bundle"):
        from orchestrator.bundle.bundle import load_bundle, read_bundle
        from orchestrator.bundle.evaluation import Tally

        description = read_bundle(bundle)
    found, notes = find_images(images)
    for note in notes:
        errors.print(f"warning: {note}", soft_wrap=True)
    names = description.class_names
    if top > len(names):
        errors.print(f"note: --top {top}: there are {len(names)} classes, all are shown")
        top = len(names)
    labelled = _labelled(images, names)
    truth = _truth(labelled, names)
    shown = []
    tally = Tally()
    with ExitStack() as opened:
        write: Write | None = opened.enter_context(csv_rows(csv, top)) if csv else None
        with phase("loading the network"):
            model = load_bundle(bundle, weights=weights, device=device)
        if description.metric != DEFAULT_METRIC:
            words = description.objective.words
            errors.print(f"note: this model was chosen by its {words}", soft_wrap=True)
        if write is None and not as_json:
            files = [one.image if isinstance(one, Unreadable) else str(one) for one in found]
            write = table_rows(console, files, names, top=top, with_truth=bool(truth))
        failed: list[Unreadable] = []
        for one in each("classifying images", model.predict_each(found, top=top), len(found)):
            label = truth.get(one.image)
            true_class = None if label is None else names[label]
            if label is not None:
                tally.add(label, one)
            if isinstance(one, Unreadable):
                failed.append(one)
            if write:
                write(one, true_class)
            if as_json:
                shown.append(json_row(one, true_class))
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    if csv and csv != STDOUT:
        errors.print(f"written to {near(csv)}: {counted(len(found), 'row')}", soft_wrap=True)
    if labelled and tally.has_counted:
        seen = model.seen(labelled)
        print_evaluation(
            model.evaluation(tally, labelled, seen),
            errors if as_json or csv == STDOUT else console,
        )
        say_seen(seen.sentence(description.stage), is_warning=seen.flatters)
    if failed:
        which = "none" if len(failed) == len(found) else f"{len(failed):,}"
        those = "could be" if which == "none" else "could not be"
        line = f"{which} of {counted(len(found), 'image')} {those} classified; {failed[0].error}"
        errors.print(f"error: {line}", soft_wrap=True)
        raise typer.Exit(2 if which == "none" else 1)


def say_seen(sentence: str, *, is_warning: bool) -> None:
    """Whether the images are new to the bundle."""
    errors.print(f"{'warning' if is_warning else 'note'}: {sentence}", soft_wrap=True)


def _labelled(images: Sequence[Path], class_names: Sequence[str]) -> "LabelledImages | None":
    """The labels of the images, where one folder holds a folder for each class."""
    from orchestrator.data.labelled_images import NoClassFolders, OtherFolders, labelled_images

    if len(images) != 1 or not images[0].is_dir():
        return None
    try:
        return labelled_images(images[0], class_names)
    except NoClassFolders:
        return None  # images whose classes nobody said
    except OtherFolders as error:
        errors.print(f"note: no accuracy: {error}", soft_wrap=True)
        return None


def _truth(labelled: "LabelledImages | None", class_names: Sequence[str]) -> Mapping[str, int]:
    """The label of each image, by its name in a prediction."""
    if labelled is None:
        return {}
    pairs = zip(labelled.images, labelled.labels, strict=True)
    return {str(one): label for one, label in pairs if isinstance(one, Path)}
