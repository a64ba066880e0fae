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
from dataclasses import asdict, dataclass

import ray
from ray._private.state import jobs
from ray.experimental import internal_kv

from orchestrator.slots import ROUNDING, Machine, Slots, in_all

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""At most so often a sweep looks what the others ask for."""

_NAMESPACE = "orchestrator"
_PREFIX = "sweep/"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one sweep could use."""

    sweep: str
    slots: int
    """Trials side by side that it was given; the cluster is believed to have room for them."""
    wanted: int
    """Of these, as many as it has trials for."""
    needs: dict[str, float]
    """Of a slot: CPUs, GPUs, and GPUs of its kind, where it wants one."""


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


class Share:
    """The part of the cluster that belongs to the sweep of this process. Ray is connected."""

    def __init__(self, sweep: str, slots: Slots, machines: Callable[[], Sequence[Machine]]) -> None:
        """`machines` gives those that the cluster has or may come to have."""
        self._sweep = sweep
        self._slots = slots
        self._machines = machines
        self._job = ray.get_runtime_context().get_job_id()
        self._looked_at = -math.inf
        self._allowed = slots.num_slots
        self._others: list[str] = []

    def allowed(self, num_left: Callable[[], int]) -> int:
        """How many trials the sweep may run now; `num_left` are running or still to be run."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            try:
                self._look(max(1, min(num_left(), self._slots.num_slots)))
            except Exception as error:  # of Ray's, of many kinds, while its head is away
                logger.info("the sweeps on the cluster could not be asked for: %s", error)
        return self._allowed

    def withdraw(self) -> None:
        """The sweep needs nothing any more."""
        with suppress(Exception):  # where Ray has gone, no claim is left
            internal_kv._internal_kv_del(_PREFIX + self._job, namespace=_NAMESPACE)

    def announce(self, wanted: int) -> None:
        """Tell the other sweeps that so many slots could be used."""
        own = Claim(
            sweep=self._sweep,
            slots=self._slots.num_slots,
            wanted=wanted,
            needs=self._slots.needs,
        )
        text = json.dumps(asdict(own))
        internal_kv._internal_kv_put(_PREFIX + self._job, text, namespace=_NAMESPACE)

    def _look(self, wanted: int) -> None:
        self.announce(wanted)
        claims = current_claims()
        self._allowed = fair_shares(claims, in_all(self._machines()))[self._job]
        others = sorted(claim.sweep for job, claim in claims.items() if job != self._job)
        if others != self._others:
            whose = f"shared with {', '.join(others)}" if others else f"{self._sweep}'s alone again"
            logger.warning("the cluster is %s: %s has %d slots", whose, self._sweep, self._allowed)
            self._others = others


def current_claims() -> dict[str, Claim]:
    """By Ray's job: what the sweeps that live on this cluster ask for."""
    keys = internal_kv._internal_kv_list(_PREFIX, namespace=_NAMESPACE)
    # A driver that was killed did not withdraw.
    living = {job["JobID"] for job in jobs() if not job["IsDead"]}
    claims = {}
    for key in keys:
        text = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
        job = key.decode().removeprefix(_PREFIX)
        if text and job in living:
            claims[job] = Claim(**json.loads(text))
    return claims
