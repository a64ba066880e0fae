"""Bundles on a model hub, by its own client: `HF_ENDPOINT` and `HF_TOKEN` say where and as whom."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from orchestrator.bundle.bundle import BUNDLE_SUFFIXES, read_bundle
from orchestrator.support.foreign_text import code, markdown


def push_bundles(descriptions: Sequence[Path], repo: str) -> str:
    """Upload bundles to the model repository `repo` in one commit; its address.

    A repository that is not there yet is made, and private. ValueError says why the hub refused.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    files = [path.with_suffix(suffix) for path in descriptions for suffix in BUNDLE_SUFFIXES]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{', '.join(missing)}: missing; export them again")
    for file in files:
        if file.is_symlink():  # it may lead to a file that nobody meant to publish
            raise ValueError(f"{file}: is a symbolic link, and what it leads to is not uploaded")
    add = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=str(file)) for file in files]
    add.append(CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=_readme(descriptions)))
    api = HfApi()
    try:
        address = api.create_repo(repo, exist_ok=True, private=True)
        api.create_commit(
            repo, add, commit_message=f"Add {', '.join(p.stem for p in descriptions)}"
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise ValueError(f"{repo}: could not be pushed: {str(error).splitlines()[0]}") from error
    return str(address)


def _readme(descriptions: Sequence[Path]) -> bytes:
    if len(descriptions) == 1:
        return descriptions[0].with_suffix(".md").read_bytes()
    lines = ["# Visual prompts", "", "| task | method | backbone |", "|---|---|---|"]
    for path in descriptions:
        bundle = read_bundle(path)
        link = f"[{markdown(bundle.task)}](<{quote(path.stem)}.md>)"
        row = (link, bundle.trial.method, code(bundle.backbone.name).replace("|", "\\|"))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, ""]).encode()
