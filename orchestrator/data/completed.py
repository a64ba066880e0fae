"""Labelled images become a task: splits that are missing are made, and what is wrong is said.

What the readers of all forms without published lists end with, so that a seed and fractions mean
the same for folders, tables and files that hold many images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.data.cache import content_hashes
from orchestrator.data.images import ContentHashes
from orchestrator.data.reading import Problems, add_trainval, check_overlap
from orchestrator.data.split import FRACTIONS, SplitRule, contents_of_copies, fill_splits
from orchestrator.data.task import Example, Split, Task
from orchestrator.support.counted import counted

OWN = ("train", "val", "test")


def completed_task(
    examples: Mapping[str, tuple[Example, ...]],
    *,
    found: Problems,
    root: Path,
    sources: Mapping[str, Path],
    class_names: Sequence[str],
    layout: str,
    rule: SplitRule,
    source: Path | None = None,
    hashes: ContentHashes | None = None,
    official: bool = False,
    read_as: str = "",
    split_source: str = "",
    notes: Sequence[str] = (),
) -> Task:
    """The task of these images, with what was found wrong with it so far and here.

    `sources` are the files or folders that say which images each given split has; without any,
    all images are in `examples["train"]`, of `source` or the root, and the splits are ours.
    """
    members = {"train": (), **examples}
    if sources and not official:
        _leave_out_copies(members, hashes, found, root)
    split_rule = fill_splits(members, sources, rule, lambda: hashes or content_hashes())
    source = sources.get("train") or source or root
    splits = {
        name: Split(name=name, source=sources.get(name, source), examples=members[name])
        for name in OWN
        if members.get(name)
    }
    _check_sizes(splits, sources, source, rule, split_rule, found)
    check_overlap(splits, found)
    add_trainval(splits, root)
    return Task(
        name=found.task,
        group="",
        num_classes=len(class_names),
        class_names=tuple(class_names),
        root=root,
        layout=layout,
        splits=splits,
        official=official,
        split_rule=split_rule,
        read_as=read_as,
        split_source=split_source,
        notes=tuple(notes),
        problems=found.all,
    )


def _leave_out_copies(
    members: dict[str, tuple[Example, ...]],
    hashes: ContentHashes | None,
    found: Problems,
    root: Path,
) -> None:
    """Of val and train, held images that are exact copies of those they are measured on.

    Where images are files, `check_task` refuses copies, and who made the folder can mend it. A
    file of many images cannot be mended by hand.
    """
    held = [one for split in OWN for one in members.get(split, ()) if one.held is not None]
    contents = contents_of_copies(held, hashes or content_hashes())
    taken: set[bytes] = set()
    for name in reversed(OWN):
        images = members.get(name, ())
        kept = tuple(one for one in images if contents.get(one.file) not in taken)
        taken.update(contents[one.file] for one in images if one.file in contents)
        if len(kept) < len(images):
            measured = " and ".join(OWN[OWN.index(name) + 1 :])
            message = (
                f"left out of {name}: {counted(len(images) - len(kept), 'image')}, exact copies "
                f"of images of {measured}"
            )
            found.add(name, root, 0, message, "warning")
            members[name] = kept


def _check_sizes(
    splits: Mapping[str, Split],
    sources: Mapping[str, Path],
    source: Path,
    rule: SplitRule,
    split_rule: str,
    found: Problems,
) -> None:
    for name in ("train", "val"):
        if name in splits:
            continue
        if name == "val" and name not in sources and "train" in splits:
            message = (
                "val would be empty: no class has the two images (that are no copies of each "
                "other) of which one can be validated on; add images"
            )
        else:
            message = f"no image of {name} can be used"
        found.add(name, sources.get(name, source), 0, message)
    if "test" not in splits and "test" not in sources:
        message = "no test split: a search works, finalize has nothing to test on"
        fraction = (rule.fractions or FRACTIONS)[2]
        if not sources and fraction > 0:
            message += " (no class has the three images that train, val and test need)"
        elif split_rule:
            message += " (--split 60/20/20 would make one)"
        found.add("test", source, 0, message, "warning")
