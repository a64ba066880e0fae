"""`export` and `train`: the best configurations and prompts as files, and trained again."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from orchestrator.cli.options import Bundle, DataOption, Json, Storage, WeightsOption
from orchestrator.cli.terminal import Terminal
from orchestrator.support.near import near
from orchestrator.support.phases import phase

console = Terminal()


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="The folder of a sweep, with --storage its name, or a bundle: <task>.yaml.",
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Where to write.",
            show_default="default: best/ in the sweep's folder; of a bundle <task>.pt2 beside it",
            rich_help_panel="Output",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="USER/NAME",
            help="Upload the bundles to this model repository of the Hugging Face hub, too.",
            rich_help_panel="Output",
        ),
    ] = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the best trial of every task as files: configuration, prompts, card, checksums.

        orchestrator export SWEEP
        orchestrator export SWEEP/best/photos.yaml --to photos.onnx

    From one `<task>.yaml` write the whole network as one program instead: --to NAME.pt2 for
    `torch.export.load` (the default), --to NAME.onnx for ONNX runtimes.
    """
    if source.is_file():
        _export_one(source, to, push, weights)
        return
    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep
    from orchestrator.bundle.export import BEST_FOLDER, exported_table
    from orchestrator.plan.folders import FRONTS
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
            console.say(f"missing: {line}")
        if found.has_folder:
            console.say(f"written to {near(target)}")
        if exported.fronts:
            console.say(
                f"Pareto fronts, as configurations without weights: {near(target / FRONTS)}"
            )
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
        f"written to {near(target)}: {use[target.suffix]} takes uint8 images "
        f"(batch, 3, height, width); its logits equal the bundle's to {error:.1g}",
        markup=False,
        soft_wrap=True,
    )


def _push(bundles: list[Path], repo: str) -> None:
    from orchestrator.bundle.hub import push_bundles

    console.say(f"pushed to {push_bundles(bundles, repo)}")


def train(
    bundle: Bundle,
    data: DataOption = None,
    weights: WeightsOption = None,
    as_json: Json = False,
) -> None:
    """Train an exported configuration again, and compare its accuracy with the recorded one.

        orchestrator train SWEEP/best/photos.yaml

    Same seed, same images: on the same machine the same accuracy. Nothing is written.
    """
    from orchestrator.bundle.bundle import read_bundle

    description = read_bundle(bundle)
    from orchestrator.bundle.retrain import recorded_accuracy, train_again

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
