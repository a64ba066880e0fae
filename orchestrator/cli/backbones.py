"""`methods --backbones`: what `--backbone` takes."""

import json
import re
from importlib import metadata
from itertools import groupby

import typer
from rich.table import Table
from rich.text import Text

from methods import backbone_catalogue
from methods.backbone_groups import Group, Member, example_of, members
from methods.timm_names import plain_name
from orchestrator.cli.terminal import Terminal
from orchestrator.support.counted import counted
from orchestrator.support.did_you_mean import did_you_mean

console = Terminal()

_MOST_REFUSED = 10


def show_backbones(text: str, *, as_json: bool) -> None:
    """All groups, or the names with `text` in them and the reasons why others are refused."""
    text = plain_name(text)
    found = members(text)
    refused = backbone_catalogue.refused(text.lower())
    if not found and not refused:  # of what cannot be tuned no pretrainings are kept
        name = text.lower().partition(".")[0]
        refused = {one: why for one, why in backbone_catalogue.refused(name).items() if one == name}
    if not found and not refused:
        words = {word for each in members() for word in re.split(r"[_.]", each.name)}
        hint = did_you_mean("part of a backbone's name", text, words)
        raise ValueError(
            hint
            or f"no backbone has {text!r} in its name; `orchestrator methods --backbones` "
            "lists what there is"
        )
    groups = [(group, list(own)) for group, own in groupby(found, key=lambda each: each.group)]
    if as_json:
        typer.echo(json.dumps(_document(groups, refused), indent=2))
        return
    if text:
        if found:
            console.print_table(_names(found))
        for name, why in list(refused.items())[:_MOST_REFUSED]:
            console.say(f"{name} cannot be tuned: {why}.")
        if len(refused) > _MOST_REFUSED:
            console.say(f"and {len(refused) - _MOST_REFUSED} more that cannot be tuned.")
        return
    _print_groups(groups)
    for line in _notes(len(found), len(refused)):
        console.say(line)


def _print_groups(groups: list[tuple[Group, list[Member]]]) -> None:
    for group, own in groups:
        sizes = [each.architecture.parameters for each in own]
        parameters = "-".join(dict.fromkeys(_millions(size) for size in (min(sizes), max(sizes))))
        about = f"  {group.about}" if group.about else ""
        console.print(Text.assemble(Text(group.title, style="bold"), about), soft_wrap=True)
        console.say(
            f"  {counted(len(own), 'name')}, {parameters} parameters: {example_of(own).name}"
        )


def _names(found: list[Member]) -> Table:
    table = Table("backbone", "parameters", "image size", "license")
    table.box, table.pad_edge = None, False
    for column in table.columns[1:3]:
        column.justify = "right"
    table.columns[0].no_wrap = True
    for each in found:
        size = str(each.architecture.image_size)
        license = each.license or "not said"
        table.add_row(each.name, _millions(each.architecture.parameters), size, license)
    return table


def _notes(num_accepted: int, num_refused: int) -> list[str]:
    written, here = backbone_catalogue.timm_version(), metadata.version("timm")
    other = "" if here == written else f" (this is timm {here}: it may have more, or fewer)"
    return [
        "",
        f"{counted(num_accepted, 'name')} of timm {written}{other}; {num_refused:,} networks of it "
        "cannot be tuned.",
        "With a text, the names that have it: orchestrator methods --backbones dinov2",
        "Also: hf-hub:OWNER/NAME and local-dir:FOLDER (pathology, radiology, satellite ...), "
        "vit_base_patch16_224.moco_v3 with a file of MoCo v3, vit_quickstart without a download.",
    ]


def _document(
    groups: list[tuple[Group, list[Member]]], refused: dict[str, str]
) -> dict[str, object]:
    return {
        "timm": backbone_catalogue.timm_version(),
        "groups": [
            {
                "group": group.title,
                "about": group.about,
                "backbones": [
                    {
                        "name": each.name,
                        "family": each.architecture.family,
                        "parameters": each.architecture.parameters,
                        "image_size": each.architecture.image_size,
                        "license": each.license,
                    }
                    for each in own
                ],
            }
            for group, own in groups
        ],
        "refused": refused,
    }


def _millions(parameters: int) -> str:
    """`5.5M`, `86M`, `1.1B`."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if parameters >= size:
            number = parameters / size
            return f"{number:.1f}{unit}" if number < 10 else f"{number:.0f}{unit}"
    return f"{parameters / 1e6:.1f}M"
