"""The files of a study's run: its search space, the bundle of its best trial, its figures."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from orchestrator.bundle.bundle import BUNDLE_SUFFIXES
from orchestrator.plan.plan import SweepPlan
from orchestrator.report.collect import StudyReport
from orchestrator.report.page import study_page
from orchestrator.support.yaml_io import dump_yaml
from orchestrator.tracking.backend import RunFiles
from orchestrator.tracking.content import shown_trials

SPACE_FILE = "search_space.yaml"
PAGE_FILE = "study.html"
IMPORTANCE_FILE = "importance.json"
BEST_FOLDER = "best"

SPACE, BEST, IMPORTANCE, PAGE = "space_file", "best_files", "importance", "page"
"""Kinds of files; a tracker remembers the digest of each."""

_NAMES = {SPACE: SPACE_FILE, IMPORTANCE: IMPORTANCE_FILE, PAGE: PAGE_FILE}


def names_of(kinds: Iterable[str], task: str) -> list[str]:
    """The names of the files of these kinds, in the run of a study on `task`."""
    kinds = list(kinds)
    names = [name for kind, name in _NAMES.items() if kind in kinds]
    best = [f"{BEST_FOLDER}/{task}{suffix}" for suffix in BUNDLE_SUFFIXES]
    return names + (best if BEST in kinds else [])


def space_and_best(plan: SweepPlan, study: str, best_files: Sequence[Path]) -> Iterator[RunFiles]:
    """The search space as it was planned; the files of the best trial, if it has some."""
    space = dump_yaml(dict(plan.spaces[plan.study(study).space]))
    digest = digest_of([(SPACE_FILE, space.encode())])
    yield RunFiles(kind=SPACE, digest=digest, sources={SPACE_FILE: lambda: space})
    if best_files:
        yield RunFiles(
            kind=BEST,
            digest=digest_of((file.name, file.read_bytes()) for file in best_files),
            sources={f"{BEST_FOLDER}/{file.name}": file for file in best_files},
        )


def figures(report: StudyReport) -> Iterator[RunFiles]:
    """How much each hyper-parameter mattered, as numbers; the page with the study's figures."""
    if shares := report.importance.shares:
        document = json.dumps(shares, indent=2)
        digest = digest_of([(IMPORTANCE_FILE, document.encode())])
        yield RunFiles(kind=IMPORTANCE, digest=digest, sources={IMPORTANCE_FILE: lambda: document})
    drawn_from = [(t.number, t.state, len(t.curve)) for t in shown_trials(report.trials)]
    digest = digest_of([(PAGE_FILE, json.dumps(drawn_from).encode())])
    yield RunFiles(kind=PAGE, digest=digest, sources={PAGE_FILE: lambda: study_page(report)})


def digest_of(files: Iterable[tuple[str, bytes]]) -> str:
    """A digest of names and contents, in 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def bundle_digest(bundle: Path) -> str:
    """The digest of both files of a bundle, by which its model is known."""
    content = bundle.read_bytes() + bundle.with_suffix(".safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]
