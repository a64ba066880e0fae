"""The driver's ear: what people ask of the sweep while it runs, heard within a second."""

import logging
import threading
from types import TracebackType
from typing import Self

from orchestrator.record.database import StorageError
from orchestrator.record.record import Record
from orchestrator.record.requests import heed, requests
from orchestrator.record.steering import sentences, steering_lines, steering_of, unsteered

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class SteeringWatch:
    """Looks from a thread of its own, so that a search that is asked nothing is not held up."""

    def __init__(self, record: Record, *, num_slots: int) -> None:
        """`num_slots`: how many trials run side by side if nobody asks for another number."""
        self._record = record
        self._num_slots = num_slots
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steering", daemon=True)
        self._heard: tuple[int, ...] = ()
        self.steering = unsteered(record.plan)
        """Another object as soon as somebody asked for something."""
        known = [request for request in requests(record) if request.heeded_at is not None]
        for line in steering_lines(known, steering_of(record.plan, known)):
            logger.warning("%s", line)  # by an earlier driver
        self.look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(LOOK_SECONDS)  # not longer, where the storage is away

    def look(self, *, patiently: bool = True) -> None:
        """Heed what was asked since the last look: what it adds up to is in force from now on."""
        with self._one_at_a_time:
            asked = requests(self._record, patiently=patiently)
            numbers = tuple(request.number for request in asked)
            if numbers == self._heard:
                return
            plan, found, lines = self._record.plan, unsteered(self._record.plan), []
            for request in asked:
                if request.heeded_at is None:
                    lines += sentences(plan, found, request, num_slots=self._num_slots)
                found = found.after(plan, request)
            if new := [request.number for request in asked if request.heeded_at is None]:
                heed(self._record, new, patiently=patiently)
            self._heard, self.steering = numbers, found
        for line in lines:
            logger.warning("%s", line)

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self.look(patiently=False)
            except StorageError as error:
                # Whoever writes trials there says so, and waits or ends the sweep.
                logger.info("what is asked of the sweep could not be read: %s", error)
            except ValueError as error:
                logger.warning("%s; nothing more is heeded", error)
                return
