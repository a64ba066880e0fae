"""Tells a tracker what happens while it happens, from a thread of its own.

This may forget what it could not send, since all of it stands in the record and `reconcile`
writes what is missing. So a server that is slow, away or broken costs the sweep nothing.
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import FINISHED, TrialRecord
from orchestrator.record.steering import Steering, with_trials
from orchestrator.support.addresses import reason_of, redacted
from orchestrator.tracking.content import study_content, trial_content
from orchestrator.tracking.trackers import tracker_at
from orchestrator.training.facts import EpochRow

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""What is told within this time goes out together."""
MAX_PAUSE_SECONDS = 30.0
"""The longest wait before a server that was away is asked again."""
ATTEMPTS = 3
"""A write that fails this often while the server answers is left to `reconcile`."""
MAX_UNSENT_ROWS = 20_000
"""Epochs of finished trials kept for a server that is away: some 20 MB."""


class Tracker:
    """Sends what happened from a thread of its own; the caller only appends."""

    def __init__(
        self,
        plan: SweepPlan,
        tracking_uri: str,
        *,
        folder: Path | None = None,
        earlier: Iterable[TrialRecord] = (),
    ) -> None:
        """`folder`: that of the sweep, for files that no server takes. `earlier`: trials recorded
        before, when a sweep is resumed, for the studies' counts.
        """
        kind = tracker_at(tracking_uri)
        self._plan = plan
        self._place = f"{kind.name} at {redacted(tracking_uri)}"
        self._name = kind.name
        self._backend = kind.open(plan, tracking_uri, folder)
        self._lock = threading.Lock()
        self._unsent: dict[tuple[str, int], _Unsent] = {}
        self._studies: dict[str, dict[int, TrialRecord]] = {s.name: {} for s in plan.studies}
        self._changed_studies = dict.fromkeys(self._studies)
        for trial in earlier:
            self._count(trial)
        self._warned = False
        self._away = False
        self._closing = threading.Event()
        self._sent_all = False
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def trial_started(self, trial: TrialRecord) -> None:
        with self._lock:
            self._unsent[trial.study, trial.number] = _Unsent(trial)
            self._count(trial)

    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None:
        with self._lock:
            entry = self._unsent.get((study, number))
            if not rows or entry is None:
                return
            # A trial whose worker died goes again from an earlier epoch.
            entry.curve = [row for row in entry.curve if row["epoch"] < rows[0]["epoch"]]
            entry.curve += rows
            entry.changed = True

    def trial_frozen(self, trial: TrialRecord) -> None:
        with self._lock:
            self._unsent[trial.study, trial.number] = _Unsent(trial, list(trial.curve))
            self._count(trial)

    def trial_ended(self, trial: TrialRecord) -> None:
        with self._lock:
            self._unsent[trial.study, trial.number] = _Unsent(trial, list(trial.curve))
            self._count(trial)
            self._forget_oldest()

    def steered(self, steering: Steering, num_trials: Mapping[str, int]) -> None:
        with self._lock:
            before = {study.name: study.num_trials for study in self._plan.studies}
            self._plan = with_trials(self._plan, num_trials.__getitem__)
            # Studies that share their trials change a few numbers with every trial.
            changed = (study for study in self._studies if num_trials[study] != before[study])
            self._changed_studies |= dict.fromkeys(changed)

    def close(self, timeout_seconds: float) -> bool:
        """Send what is left and stop. True: the tracker answers and has all that was kept for it.

        False: it was away; `reconcile` fills in what is missing once it answers.
        """
        self._closing.set()
        self._thread.join(timeout_seconds)
        return self._sent_all and not self._thread.is_alive()

    def _count(self, trial: TrialRecord) -> None:
        self._studies[trial.study][trial.number] = replace(trial, curve=())
        self._changed_studies[trial.study] = None

    def _forget_oldest(self) -> None:
        ended = [key for key, entry in self._unsent.items() if entry.trial.state in FINISHED]
        num_rows = sum(1 + len(self._unsent[key].curve) for key in ended)
        for key in ended:
            if num_rows <= MAX_UNSENT_ROWS:
                break
            num_rows -= 1 + len(self._unsent.pop(key).curve)

    def _run(self) -> None:
        pause = 0.0
        while not self._closing.wait(pause):
            sent = self._flush()
            pause = FLUSH_SECONDS if sent else min(max(2 * pause, FLUSH_SECONDS), MAX_PAUSE_SECONDS)
        self._sent_all = any(self._flush() for _ in range(ATTEMPTS))

    def _flush(self) -> bool:
        try:
            self._backend.connect()
            with self._lock:
                studies = list(self._changed_studies)
                trials = [key for key, entry in self._unsent.items() if entry.changed]
            for study in studies:
                self._send_study(study)
            for key in trials:
                self._send_trial(key)
        except Exception as error:
            # Whatever the tracker, its server or its database throw must not end this thread.
            self._backend.disconnect()
            self._say_away(error)
            return False
        if self._away:
            self._away = False
            logger.info("%s answers again", self._place)
        return True

    def _send_study(self, study: str) -> None:
        with self._lock:
            trials = list(self._studies[study].values())
            del self._changed_studies[study]
        try:
            self._backend.write_run(study_content(self._plan, self._plan.study(study), trials))
        except Exception:
            with self._lock:
                self._changed_studies[study] = None
            raise

    def _send_trial(self, key: tuple[str, int]) -> None:
        with self._lock:
            entry = self._unsent.get(key)
            if entry is None:
                return
            curve = list(entry.curve)
            entry.changed = False
        try:
            self._backend.write_run(trial_content(self._plan, entry.trial, curve))
        except Exception as error:
            entry.failures += 1
            entry.changed = entry.failures < ATTEMPTS
            if entry.changed:
                raise
            logger.warning("%s does not take %s #%d (%s)", self._name, *key, reason_of(error))
        if entry.trial.state in FINISHED:
            with self._lock:
                if self._unsent.get(key) is entry:
                    del self._unsent[key]

    def _say_away(self, error: Exception) -> None:
        if not self._warned:
            logger.warning(
                "%s cannot be written to (%s); the sweep goes on, and what is missing "
                "there will be filled in when it is back",
                self._place,
                reason_of(error),
            )
        self._warned = self._away = True


@dataclass
class _Unsent:
    """What is known of a trial that is running, or has ended and is not yet in the tracker."""

    trial: TrialRecord
    curve: list[EpochRow] = field(default_factory=list)
    changed: bool = True
    failures: int = 0
