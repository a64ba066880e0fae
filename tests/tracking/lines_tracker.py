"""A tracker of a hundred lines, in no way like MLflow: a file to which a line is added per change.

Its address is `lines:<file>`. Where the folder of the file is not there, it is away.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator.plan.plan import SweepPlan, TaskPlan
from orchestrator.tracking.backend import (
    Backend,
    Check,
    MissingFile,
    Pages,
    RunContent,
    RunFiles,
    RunKey,
    ShownRun,
    TrackerKind,
    Written,
)
from orchestrator.tracking.study_files import bundle_digest

Entry = dict[str, Any]


class Lines:
    """The runs of one sweep: the last line of a key is what is shown of it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._shown: dict[RunKey, Entry] = {}

    def connect(self) -> None:
        self._shown = self.read()

    def read(self) -> dict[RunKey, Entry]:
        self.file.touch()  # throws where its folder is not there
        found = map(json.loads, self.file.read_text().splitlines())
        return {(entry["key"][0], entry["key"][1]): entry for entry in found}

    def disconnect(self) -> None:
        self._shown = {}

    def _write(self, key: RunKey, **changed: Any) -> bool:
        before = self._shown.get(key, {"key": list(key), "files": {}, "models": {}})
        entry = json.loads(json.dumps({**before, **changed}))
        if entry == before:
            return False
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._shown[key] = entry
        return True

    def write_run(self, content: RunContent) -> Written:
        assert content.parent is None or content.parent in self._shown, "a run before its study"
        created = content.key not in self._shown
        known = self._shown.get(content.key, {}).get("content", {}).get("points", [])
        points = {point["step"]: point for point in known}
        points |= {point.step: asdict(point) for point in content.points}
        shown = {**asdict(replace(content, points=())), "points": list(points.values())}
        changed = self._write(content.key, content=shown)
        return "created" if created else "updated" if changed else "unchanged"

    def write_files(self, key: RunKey, files: RunFiles) -> None:
        there = self._shown[key]["files"]
        if there.get(files.kind, {}).get("digest") != files.digest:
            texts = {
                name: source.read_bytes().hex() if isinstance(source, Path) else source()
                for name, source in files.sources.items()
            }
            entry = {"digest": files.digest, "texts": texts}
            self._write(key, files={**there, files.kind: entry})

    def write_dataset(self, key: RunKey, task: TaskPlan) -> None:
        self._write(key, dataset=task.fingerprint)

    def delete_doubles(self) -> int:
        return 0

    def register(self, key: RunKey, bundle: Path) -> None:
        models = self._shown[key]["models"]
        self._write(key, models={**models, bundle_digest(bundle): bundle.read_text()})

    def restore_models(self, key: RunKey, bundles: Mapping[str, Path]) -> int:
        models = self._shown[key]["models"]
        lost = [digest for digest in models if digest in bundles and not models[digest]]
        self._write(key, models={**models, **{one: bundles[one].read_text() for one in lost}})
        return len(lost)

    def shown_runs(self) -> Iterator[ShownRun]:
        for (study, number), entry in self.read().items():
            content = entry["content"]
            values = [point["values"].get("val_accuracy") for point in content["points"]]
            yield ShownRun(
                study=study,
                number=number,
                state=content["state"] if number else "study",
                val_accuracy=values[-1] if values else None,
                test_accuracy=content["totals"].get("test_accuracy"),
                deleted=False,
                missing=[MissingFile(k, k) for k, text in entry["models"].items() if not text],
            )

    def settle(self) -> str | None:
        return None


class LinesTracker:
    name = "Lines"
    variable = "LINES_TRACKER"
    local_databases: Sequence[str] = ()

    def address(self, folder: Path) -> str:
        raise AssertionError("the tests name the address")

    def has(self, address: str) -> bool:
        return address.startswith("lines:")

    def open(self, plan: SweepPlan, address: str, folder: Path | None = None) -> Backend:
        return Lines(Path(address.removeprefix("lines:")))

    def reach(self, address: str) -> str:
        return f"{address} is a file"

    def in_copy(self, address: str, folder: Path, copies: Path) -> str:
        return address

    def examine_folder(self, address: str, folder: Path, databases: Path) -> Iterator[Check]:
        yield Check(True, "", "")

    def pages(
        self, sweeps: Mapping[Path, SweepPlan], host: str, port: int
    ) -> AbstractContextManager[Pages]:
        raise ValueError(f"{self.name} has no pages")


LINES: TrackerKind = LinesTracker()
