"""How many trials run side by side: as people want it, as far as there is room."""

import logging
from collections.abc import Callable

from orchestrator.cluster.capacity import grown
from orchestrator.cluster.sharing import Share, machines_alive
from orchestrator.cluster.slots import Slots, num_fitting
from orchestrator.support.counted import counted

logger = logging.getLogger(__name__)


class SideBySide:
    """The slots that a schedule began with, more or fewer of the same size, or none in a pause.

    Ray knows the size of a slot from the start of the sweep: another one needs another start.
    """

    def __init__(self, slots: Slots, share: Share, *, on_a_cluster: bool) -> None:
        self._slots = slots
        self._share = share
        self._on_a_cluster = on_a_cluster
        self._wanted: int | None = None

    @property
    def allowed(self) -> int:
        """Trials that may run now; the queue alone knows of a pause."""
        return self._share.allowed

    @property
    def max_workers(self) -> int:
        """Workers that may be kept, at work or not."""
        return 0 if self._wanted == 0 else self._share.allowed

    def look(
        self,
        *,
        wanted: int | None,
        num_left: Callable[[], int],
        num_running: Callable[[], int],
        is_idle: bool,
    ) -> None:
        """Heed what is `wanted` now, 0 in a pause, and see what other sweeps ask for.

        `num_left` and `num_running` as `Share.look` has them.
        """
        if wanted != self._wanted:
            self._wanted = wanted
            if wanted != 0:
                self._share.resize(self._with_room(wanted))
        if wanted == 0 and is_idle:
            self._share.rest()
        else:
            self._share.look(num_left=num_left, num_running=num_running)

    def _with_room(self, wanted: int | None) -> int:
        begun_with = self._slots.num_slots
        if wanted is None or wanted <= begun_with:
            return wanted or begun_with
        most = max(begun_with, self._num_fitting())
        if wanted > most:
            logger.warning(
                "%d slots are asked for, and there is room for %d of %s each: "
                "`orchestrator resume --slots %d` divides the machines anew",
                wanted,
                most,
                counted(self._slots.cpu_threads, "CPU thread"),
                wanted,
            )
        return min(wanted, most)

    def _num_fitting(self) -> int:
        try:
            machines = machines_alive()
        except Exception as error:  # of Ray's, of many kinds, while its head is away
            logger.info("the machines of the cluster could not be asked for: %s", error)
            return 0
        kind = self._slots.gpu_kind
        if self._on_a_cluster:
            machines = grown(machines, kind)
        return num_fitting(
            machines,
            cpu_threads=self._slots.cpu_threads,
            gpus_per_trial=self._slots.gpus_per_trial,
        )
