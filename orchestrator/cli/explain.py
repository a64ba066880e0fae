"""`explain`: what the prompts of a bundle do, as pictures."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Bundle, DataOption, WeightsOption
from orchestrator.cli.terminal import Terminal
from orchestrator.support.near import near

console = Terminal()


def explain(
    bundle: Bundle,
    data: DataOption = None,
    weights: WeightsOption = None,
    num_images: Annotated[
        int,
        typer.Option("--images", help="How many validation images to show.", min=1, max=20),
    ] = 6,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write the page.",
            show_default="default: <task>.html beside the bundle",
            rich_help_panel="Output",
        ),
    ] = None,
) -> None:
    """Draw where the network looks with and without its prompts, and what became of them.

        orchestrator explain SWEEP/best/photos.yaml

    One HTML page: attention over validation images, and how the prompts changed in training. It
    needs the task's images.
    """
    from orchestrator.bundle.bundle import load_bundle

    model = load_bundle(bundle, weights=weights)
    import numpy as np

    from orchestrator.bundle.explain import explain as draw
    from orchestrator.bundle.explain import write_page
    from orchestrator.bundle.retrain import find_task
    from orchestrator.data.cache import ImageCache, open_search_splits
    from orchestrator.training.backbone import image_transform

    task = find_task(model.bundle, data)
    splits = open_search_splits(task, image_transform(model.bundle.backbone), ImageCache())
    val = splits["val"]
    # Any of them: the list is often sorted by class.
    rows = np.random.default_rng(0).permutation(len(val))[:num_images].tolist()
    labels = [task.class_names[int(val.labels[row])] for row in rows]
    target = out or bundle.with_suffix(".html")
    write_page(draw(model, val.images[rows], labels, splits["train"].images[:256]), target)
    console.say(f"written to {near(target)}")
