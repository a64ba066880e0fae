"""Bundles on a model hub, by its own client: `HF_ENDPOINT` and `HF_TOKEN` say where and as whom."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.bundle import BUNDLE_SUFFIXES, read_bundle


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
        row = (f"[{bundle.task}]({path.stem}.md)", bundle.trial.method, bundle.backbone.name)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, ""]).encode()
