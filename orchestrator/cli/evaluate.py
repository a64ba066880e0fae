"""`evaluate`: how good an exported bundle is on images whose classes are known."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.evaluation_tables import print_evaluation
from orchestrator.cli.options import Bundle, DataOption, Json, WeightsOption
from orchestrator.cli.predict import CsvOption, DeviceOption, say_seen
from orchestrator.cli.prediction_rows import STDOUT, Write, csv_rows
from orchestrator.cli.terminal import Terminal
from orchestrator.support.counted import counted
from orchestrator.support.near import near
from orchestrator.support.phases import each, phase

console = Terminal()
errors = Terminal(stderr=True)


def evaluate(
    bundle: Bundle,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES",
            help="A folder with a folder of images for each class, under its name; a list (.txt) "
            "of lines `relative/path label`; or a table (CSV, TSV, JSON lines, Parquet) with "
            "columns such as image and label.",
        ),
    ],
    csv: CsvOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """Measure an exported bundle on labelled images: accuracy, F1, what is taken for what.

        orchestrator evaluate SWEEP/best/photos.yaml new/

    Accuracy is the share of images that are right, with its standard error, or with its 95 %
    interval where that is 0. Mean per-class accuracy and macro-F1 are scikit-learn's
    balanced_accuracy_score and f1_score(average="macro"). Images that the bundle was trained or
    chosen on are recognized where they are the same byte for byte, and the images of its task are
    at hand (--data says where). Exit code 1: some images could not be read and count nowhere; 2:
    none could, or the folders are not the classes.
    """
    from orchestrator.data.labelled_images import labelled_images

    if as_json and csv == STDOUT:
        raise ValueError("--json and --csv - both write to stdout: give --csv a file, or one alone")
    with phase("reading the bundle"):
        from orchestrator.bundle.bundle import load_bundle, read_bundle
        from orchestrator.bundle.evaluation import Tally

        description = read_bundle(bundle)
    names = description.class_names
    labelled = labelled_images(images, names)
    for note in labelled.notes:
        errors.print(f"warning: {note}", soft_wrap=True)
    tally = Tally()
    with ExitStack() as opened:
        write: Write | None = opened.enter_context(csv_rows(csv, 1)) if csv else None
        with phase("loading the network"):
            model = load_bundle(bundle, weights=weights, device=device)
        seen = model.seen(labelled, data=data)
        say_seen(seen.sentence(description.stage), is_warning=seen.flatters)
        rows = each("classifying images", model.predict_each(labelled.images), len(labelled.images))
        for label, one in zip(labelled.labels, rows, strict=True):
            tally.add(label, one)
            if write:
                write(one, names[label])
    found = model.evaluation(tally, labelled, seen)
    if as_json:
        document = {"bundle": str(bundle), "task": description.task, "images": str(images)}
        typer.echo(json.dumps({**document, **found.document()}, indent=2))
    else:
        print_evaluation(found, errors if csv == STDOUT else console)
    if csv and csv != STDOUT:
        errors.print(
            f"written to {near(csv)}: {counted(len(labelled.images), 'row')}", soft_wrap=True
        )
    if found.unreadable:
        total, first = len(labelled.images), found.unreadable[0].error
        share = f"{len(found.unreadable):,} of {counted(total, 'image')}"
        line = f"{share} could not be read; {first}"
        errors.print(f"error: {line}", soft_wrap=True)
        raise typer.Exit(1)
