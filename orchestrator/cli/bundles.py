"""`export`, `train`, `predict`: the best configurations and prompts as files, and their use."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.cells import cell_len
from rich.table import Table

from orchestrator.cli.options import DataOption, Json, Storage, WeightsOption
from orchestrator.cli.terminal import Terminal
from orchestrator.support.foreign_text import visible

if TYPE_CHECKING:
    from orchestrator.bundle.bundle import Prediction
    from orchestrator.data.image_paths import Unreadable

console = Terminal()
errors = Terminal(stderr=True)


def export(
    source: Annotated[
        Path,
        typer.Argument(help="The folder of a sweep, with --storage its name, or a <task>.yaml."),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Where to write (default: best/ in the sweep folder; <task>.pt2 beside a "
            "<task>.yaml)."
        ),
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="Upload the bundles to this model repository of a hub.")
    ] = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the best trial of every task as files: configuration, prompts, card, checksums.

    From one `<task>.yaml` write the whole network as one program instead: --to NAME.pt2 for
    `torch.export.load` (the default), --to NAME.onnx for ONNX runtimes.
    """
    if source.is_file():
        _export_one(source, to, push, weights)
        return
    from orchestrator.api.sweep import Sweep
    from orchestrator.bundle.export import BEST_FOLDER, exported_table
    from orchestrator.training.objective import DEFAULT_METRIC

    found = Sweep.open(source, storage=storage, data=data, weights=weights)
    plan, target = found.frozen_plan, to or source / BEST_FOLDER
    exported = found.export(target)
    rows = list(exported_table(plan, exported.best))
    names = [
        *("task", "method", "metric", "val %", "val majority %"),
        *("tuned parameters", "configuration"),
    ]
    if as_json:
        best = [dict(zip(names, row, strict=True)) for row in rows]
        typer.echo(json.dumps({"best": best, "missing": exported.missing}, indent=2))
    else:
        # Plain accuracy needs no name beside it.
        told = any(task.metric != DEFAULT_METRIC for task in plan.tasks)
        kept = [index for index, name in enumerate(names) if told or name != "metric"]
        table = Table(*(names[index] for index in kept), box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(row[index] for index in kept))
        console.print_table(table)
        for line in exported.missing:
            console.print(f"missing: {line}", markup=False, soft_wrap=True)
        if found.has_folder:
            console.print(f"written to {target}", markup=False, soft_wrap=True)
    if push and exported.best:
        _push([target / f"{task}.yaml" for task in exported.best], push)
    if len(exported.best) < len(plan.tasks):
        raise typer.Exit(1)


def _export_one(bundle: Path, to: Path | None, push: str | None, weights: Path | None) -> None:
    from orchestrator.bundle.bundle import load_bundle
    from orchestrator.bundle.torch_program import save_program

    if push:
        _push([bundle], push)
        return
    target = to or bundle.with_suffix(".pt2")
    error = save_program(load_bundle(bundle, weights=weights), target)
    use = {".pt2": "torch.export.load(...).module()(pixels)", ".onnx": "its input `pixels`"}
    console.print(
        f"written to {target}: {use[target.suffix]} takes uint8 images "
        f"(batch, 3, height, width); its logits equal the bundle's to {error:.1g}",
        markup=False,
        soft_wrap=True,
    )


def _push(bundles: list[Path], repo: str) -> None:
    from orchestrator.bundle.hub import push_bundles

    console.print(f"pushed to {push_bundles(bundles, repo)}", markup=False, soft_wrap=True)


def train(
    bundle: Annotated[Path, typer.Argument(help="A <task>.yaml written by export.")],
    data: DataOption = None,
    weights: WeightsOption = None,
    as_json: Json = False,
) -> None:
    """Train an exported configuration again and compare its accuracy."""
    from orchestrator.bundle.bundle import read_bundle
    from orchestrator.bundle.retrain import recorded_accuracy, train_again

    description = read_bundle(bundle)
    accuracy = train_again(description, data=data, weights=weights)
    if as_json:
        split = "test" if description.stage == "final" else "val"
        name = f"{split}_{description.objective.key}"
        typer.echo(json.dumps({name: accuracy, "recorded": recorded_accuracy(description)}))
        return
    split = "test" if description.stage == "final" else "validation"
    console.print(
        f"{description.task}: {split} {description.objective.words} {accuracy:.4f}, "
        f"recorded {recorded_accuracy(description):.4f} "
        f"on {description.device} with {description.cpu_threads} CPU threads"
    )


def predict(
    bundle: Annotated[Path, typer.Argument(help="A <task>.yaml written by export.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    weights: WeightsOption = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Classify images with an exported bundle, each as a viewer shows it.

    One row per image. With --json a list of {"image", "label", "class_name", "probability"}, or of
    {"image", "error"} for a file that is no image. Folders are walked; what is left out there is
    said on stderr. Exit code 1: some images could not be classified; 2: none could.
    """
    from orchestrator.bundle.bundle import load_bundle
    from orchestrator.data.image_paths import Unreadable, find_images
    from orchestrator.training.objective import DEFAULT_METRIC

    found, notes = find_images(images)
    for note in notes:
        errors.print(f"warning: {note}", soft_wrap=True)
    model = load_bundle(bundle, weights=weights, device=device)
    if model.bundle.metric != DEFAULT_METRIC:
        words = model.bundle.objective.words
        errors.print(f"note: this model was chosen by its {words}", soft_wrap=True)
    classified = model.predict_each(one for one in found if isinstance(one, Path))
    results = (one if isinstance(one, Unreadable) else next(classified) for one in found)
    if as_json:
        shown = list(results)
        typer.echo(json.dumps([asdict(one) for one in shown], indent=2))
    else:
        shown = list(_print_each(results, found, model.bundle.class_names))
    failed = [one for one in shown if isinstance(one, Unreadable)]
    if failed:
        which = "none" if len(failed) == len(shown) else f"{len(failed):,}"
        those = "could be" if which == "none" else "could not be"
        line = f"{which} of {len(shown):,} images {those} classified; {failed[0].error}"
        errors.print(f"error: {line}", soft_wrap=True)
        raise typer.Exit(2 if which == "none" else 1)


def _print_each(
    results: "Iterator[Prediction | Unreadable]",
    named: "Sequence[Path | Unreadable]",
    class_names: Sequence[str],
) -> "Iterator[Prediction | Unreadable]":
    """Print each row when it is known; names are long, so that no table may cut them."""
    from orchestrator.data.image_paths import Unreadable

    names = [str(one.image if isinstance(one, Unreadable) else one) for one in named]
    image_width = min(60, max(cell_len(visible(name)) for name in ["image", *names]))
    class_width = min(60, max(cell_len(visible(name)) for name in ["class", *class_names]))

    def padded(text: str, width: int) -> str:
        shown = visible(text)
        return shown + " " * (width - cell_len(shown))

    head = padded("image", image_width), padded("class", class_width)
    console.print("  ".join([*head, "probability"]), soft_wrap=True)
    for one in results:
        image = padded(one.image, image_width)
        if isinstance(one, Unreadable):
            row = f"{image}  error: {one.error}"
        else:
            row = f"{image}  {padded(one.class_name, class_width)}  {one.probability:.3f}"
        console.print(row, soft_wrap=True)
        yield one
