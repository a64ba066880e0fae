"""What each of the sweeps on a cluster may take of it.

Ray gives resources to whoever asks first, and a warm worker keeps its own until its sweep ends: the
second sweep would wait for the end of the first. So each sweep says in the cluster's own store what
it could use. All work out the same fair shares from that, and none starts a trial above its own.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import ray

from orchestrator.cluster.capacity import grown
from orchestrator.cluster.ray_private import Notes, jobs_alive
from orchestrator.cluster.slots import ROUNDING, Machine, Slots, in_all

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""At most so often a sweep looks what the others ask for."""

PATIENCE_SECONDS = 60.0
"""Where a sweep has waited so long for its first slot, the others leave one more, and so on."""

_NOTES = Notes("orchestrator")
_PREFIX = "sweep/"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one sweep could use."""

    sweep: str
    slots: int
    """Trials side by side that it was given; the cluster is believed to have room for them."""
    wanted: int
    """Slots that the sweep could use: as many as it has trials for."""
    running: int
    """Slots whose worker has begun."""
    needs: dict[str, float]
    """What a slot needs: CPUs, GPUs, and GPUs of its kind, where it wants one."""


def fair_shares(claims: Mapping[str, Claim], size: Mapping[str, float]) -> dict[str, int]:
    """Slots of each claim on a cluster of this size: what one leaves, the others may have.

    Slots are given out one at a time, each to the claim with the smallest share of the resource
    that it needs most of (dominant resource fairness, Ghodsi et al., NSDI 2011), the earlier key
    where shares are equal. Each has at least one, since it could not even wait for resources
    with none.
    """
    size, used = dict(size), dict.fromkeys(size, 0.0)
    for claim in claims.values():
        for name, need in claim.needs.items():
            size[name] = max(size.get(name, 0.0), claim.slots * need)
            used[name] = used.get(name, 0.0) + need
    shares = dict.fromkeys(sorted(claims), 1)

    def with_one_more(key: str) -> float:
        """The part of the cluster that the claim would have then."""
        needs = claims[key].needs
        return (shares[key] + 1) * max(need / size[name] for name, need in needs.items() if need)

    def fits(claim: Claim) -> bool:
        needs = claim.needs.items()
        return all(used[name] + need <= size[name] + ROUNDING for name, need in needs)

    while True:
        more = [k for k, claim in claims.items() if shares[k] < claim.wanted and fits(claim)]
        if not more:
            return shares
        key = min(more, key=lambda key: (with_one_more(key), key))
        shares[key] += 1
        for name, need in claims[key].needs.items():
            used[name] += need


def may_make_room(own: Claim, waiting: Claim, machines: Sequence[Machine]) -> bool:
    """Whether a sweep without any slot may get one if we leave more of one of these machines.

    Shares are of the whole cluster. What we leave of it may lie in pieces, or be of the wrong kind.
    """
    return (
        own.running > 0
        and waiting.running == 0
        and any(_fits(waiting, machine) and _fits(own, machine) for machine in machines)
    )


def _fits(claim: Claim, machine: Machine) -> bool:
    size = in_all([machine])
    return all(need <= size.get(name, 0.0) for name, need in claim.needs.items())


def machines_alive() -> list[Machine]:
    """The machines of the cluster that this process is connected to."""
    return [Machine.of_ray(node["Resources"]) for node in ray.nodes() if node["Alive"]]


class Share:
    """The part of the cluster that belongs to the sweep of this process. Ray is connected."""

    def __init__(self, sweep: str, slots: Slots) -> None:
        self.allowed = slots.num_slots
        """How many trials the sweep may run now."""
        self._sweep = sweep
        self._slots = slots
        self._job = ray.get_runtime_context().get_job_id()
        self._looked_at = -math.inf
        self._others: list[str] = []
        self._waiting_since: float | None = None
        """Since when another sweep waits for its first slot, for which we may make room."""

    def look(self, *, num_left: Callable[[], int], num_running: Callable[[], int]) -> None:
        """See what the others ask for, unless that was just done, and tell what we do.

        `num_left` trials run or are still to be run; of these `num_running` run.
        """
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        wanted = max(1, min(num_left(), self._slots.num_slots))
        try:
            self._look(self.announce(wanted=wanted, running=num_running()))
        except Exception as error:  # of Ray's, of many kinds, while its head is away
            logger.info("the sweeps on the cluster could not be asked for: %s", error)

    def resize(self, num_slots: int) -> None:
        """The sweep is to run so many trials from now on, if the others leave it as many."""
        self._slots = replace(self._slots, num_slots=num_slots)
        self.allowed = min(self.allowed, num_slots)
        self._looked_at = -math.inf

    def rest(self) -> None:
        """The sweep pauses: the others may have all of the cluster until it looks again."""
        if self._looked_at > -math.inf:
            self.withdraw()
            self._looked_at = -math.inf

    def announce(self, *, wanted: int, running: int = 0) -> Claim:
        """Tell the other sweeps what we could use and what we have."""
        own = Claim(
            sweep=self._sweep,
            slots=self._slots.num_slots,
            wanted=wanted,
            running=running,
            needs=self._slots.needs,
        )
        text = json.dumps(asdict(own))
        _NOTES.put(_PREFIX + self._job, text)
        return own

    def withdraw(self) -> None:
        """The sweep needs nothing any more."""
        with suppress(Exception):  # where Ray has gone, no claim is left
            _NOTES.remove(_PREFIX + self._job)

    def _look(self, own: Claim) -> None:
        claims, machines = {**current_claims(), self._job: own}, machines_alive()
        fair = fair_shares(claims, in_all(grown(machines)))[self._job]
        rest = [claim for job, claim in claims.items() if job != self._job]
        now = time.monotonic()
        if not any(may_make_room(own, claim, machines) for claim in rest):
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        waited = 0.0 if self._waiting_since is None else now - self._waiting_since
        self.allowed = max(1, fair - int(waited / PATIENCE_SECONDS))
        others = sorted(claim.sweep for claim in rest)
        if others != self._others:
            whose = f"shared with {', '.join(others)}" if others else f"{self._sweep}'s alone again"
            logger.warning("the cluster is %s: %s has %d slots", whose, self._sweep, fair)
            self._others = others


def current_claims() -> dict[str, Claim]:
    """By Ray's job: what the sweeps that live on this cluster ask for."""
    living = jobs_alive()
    claims = {}
    for key in _NOTES.keys(_PREFIX):
        job = key.removeprefix(_PREFIX)
        if job not in living:  # its driver was killed and did not withdraw
            _NOTES.remove(key)
        elif text := _NOTES.get(key):
            claims[job] = Claim(**json.loads(text))
    return claims
