"""What we use of Ray that it does not promise, all in one place; what of Tune, in `run/ray/`.

There is no public way to any of it: the public list of jobs asks a dashboard that need not run, an
actor that keeps the claims of sweeps would be lost with its node, and an option that makes Ray
listen on the loopback address alone does not exist (the variable behind `ENABLE_RAY_CLUSTER` is
read when Ray is imported, which somebody else may have done before us). What is changed is changed
only while Ray starts, or as long as a Ray of our own runs.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from ray._private import ray_constants, services, state
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker
from ray.experimental import internal_kv
from ray.job_config import JobConfig

from orchestrator.support.private_names import VALUE, check, replaced

TESTED = "2.60"

RELIES_ON = {
    "ray._private.node.Node().all_processes": VALUE,
    "ray._private.node.Node.gcs_address": VALUE,
    "ray._private.node.Node.raylet_socket_name": VALUE,
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER": VALUE,
    "ray._private.services.ConsolePopen": VALUE,
    "ray._private.services.find_bootstrap_address": "(temp_dir)",
    "ray._private.state.jobs": "()",
    "ray._private.utils.set_sigterm_handler": "(sigterm_handler)",
    "ray._private.worker._global_node": VALUE,
    "ray._private.worker.print_to_stdstream": "(data, ignore_prefix)",
    "ray.experimental.internal_kv._internal_kv_del": "(key, *, del_by_prefix, namespace)",
    "ray.experimental.internal_kv._internal_kv_get": "(key, *, namespace)",
    "ray.experimental.internal_kv._internal_kv_list": "(prefix, *, namespace)",
    "ray.experimental.internal_kv._internal_kv_put": "(key, value, overwrite, *, namespace)",
    "ray._private.worker.init(_node_ip_address)": VALUE,
    "ray._private.worker.init(_temp_dir)": VALUE,
    "ray.job_config.JobConfig()._py_driver_sys_path": VALUE,
    "ray.job_config.JobConfig._serialize": "(self)",
}


@functools.cache
def check_ray() -> None:
    """Before Ray starts: ValueError where this Ray is another than the one that was tested."""
    check("ray", ray.__version__, TESTED, RELIES_ON)


class OwnPath(JobConfig):
    """Tells workers of folders with modules only where this process has them on its own path.

    Ray's own would put the current folder on theirs, where a user's `methods/` hides ours.
    """

    def _serialize(self) -> Any:
        self._py_driver_sys_path = [path for path in self._py_driver_sys_path if path in sys.path]
        return super()._serialize()


def init_on_loopback(temp_dir: str, **options: Any) -> None:
    """`ray.init` of a Ray that is only for this machine and keeps its files in `temp_dir`.

    Its daemons have sessions of their own: a signal to our process group, or a closed terminal,
    must not take them first. They still end when we do: the kernel kills them.
    """
    popen = partial(services.ConsolePopen, start_new_session=True)
    with (
        # Or it would make our loopback address the machine's own, and listen on all of them.
        replaced(ray_constants, "ENABLE_RAY_CLUSTER", False),
        replaced(services, "ConsolePopen", popen),
    ):
        ray.init("local", _node_ip_address="127.0.0.1", _temp_dir=temp_dir, **options)


@contextlib.contextmanager
def without_handler_of_sigterm() -> Iterator[None]:
    """Ray may not put its own in place of ours."""
    with replaced(ray_utils, "set_sigterm_handler", lambda sigterm_handler: None):
        yield


@contextlib.contextmanager
def without_the_raylets_last_log() -> Iterator[None]:
    """Without twenty lines of a log when the raylet dies, which `ray_watch` tells in one."""
    show: Callable[..., None] = ray_worker.print_to_stdstream

    def unless_it_is_known(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not any("Raylet is terminated" in line for line in data["lines"]):
            show(data, ignore_prefix)

    with replaced(ray_worker, "print_to_stdstream", unless_it_is_known):
        yield


def this_node() -> Any:
    """What Ray keeps of the node of this driver: processes, addresses. Ray is connected."""
    node = ray_worker._global_node
    assert node is not None, "Ray is running"
    return node


def address_of_started() -> str | None:
    """The address of the cluster that `ray start` made on this machine last."""
    return services.find_bootstrap_address(None)


def jobs_alive() -> set[str]:
    """Ids of the drivers that run on the cluster."""
    return {job["JobID"] for job in state.jobs() if not job["IsDead"]}


class Notes:
    """Short texts that all drivers of a cluster see, in the store that its head keeps."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def put(self, key: str, text: str) -> None:
        internal_kv._internal_kv_put(key, text, namespace=self._namespace)

    def get(self, key: str) -> str | None:
        text = internal_kv._internal_kv_get(key, namespace=self._namespace)
        return text.decode() if text else None

    def remove(self, key: str) -> None:
        internal_kv._internal_kv_del(key, namespace=self._namespace)

    def keys(self, prefix: str) -> list[str]:
        found = internal_kv._internal_kv_list(prefix, namespace=self._namespace)
        return [key.decode() for key in found]
