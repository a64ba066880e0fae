"""Hosts out of namespaces: several machines on one, as far as processes can tell.

A host has a network, processes, mounts and a name of its own, an ssh server as its only entrance,
and a home and a Ray folder that no other host sees. What they share is the installed software.
Needs root, iproute2 and openssh-server.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("ip", "unshare", "setpriv", "sshd", "ssh", "ssh-keygen", "rsync")
HOME = "/mnt"
"""Where every host sees its own home, and the others' nowhere."""

_BOOT = r"""
set -e
hostname "$NAME"
mount --make-rprivate /
mount --bind "$FOLDER/home" /mnt
mount --bind "$FOLDER/passwd" /etc/passwd
mkdir -p /tmp/ray && mount --bind "$FOLDER/ray" /tmp/ray
mount -t tmpfs none /dev/shm
mkdir -p /run/sshd && mount -t tmpfs -o mode=755 none /run/sshd
ip link set lo up
mount -t tmpfs none "$HOSTS"
/usr/sbin/sshd -D -e -f /mnt/.ssh/sshd_config &
wait
"""


class Network:
    """A bridge with hosts on it. The machine itself is on it, too, as number 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"orc{os.getpid() % 100000}"
        self._prefix = f"10.{77 + os.getpid() % 100}.0"
        self.key = folder / "key"
        self._hosts: dict[str, Host] = {}
        (folder / "hosts").mkdir()
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        _run("ip", "link", "add", self.name, "type", "bridge")
        _run("ip", "addr", "add", f"{self.address_of(1)}/24", "dev", self.name)
        _run("ip", "link", "set", self.name, "up")

    def start(self, name: str, number: int) -> "Host":
        """A new host, with an empty disk."""
        self._hosts[name] = host = Host(self, name, self.address_of(number))
        host.boot()
        return host

    def address_of(self, number: int) -> str:
        return f"{self._prefix}.{number}"

    def close(self) -> None:
        for host in self._hosts.values():
            host.kill()
        _run("ip", "link", "del", self.name)


class Host:
    def __init__(self, network: Network, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.folder = network.folder / "hosts" / name
        self._namespace = f"{network.name}-{name}"
        self._network = network
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        self._set_up()
        self._process = self._start()
        self._wait_for_ssh()

    @property
    def home(self) -> Path:
        """As seen from outside."""
        return self.folder / "home"

    def run(self, command: str, *, timeout: float = 120) -> str:
        """What a login shell of this host prints."""
        done = self.ssh(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output, _ = done.communicate(timeout=timeout)
        finally:
            done.kill()
        assert done.returncode == 0, f"{self.name}: {command}: {done.returncode}\n{output}"
        return output

    def runs(self, process: str) -> bool:
        """Whether a process of this name is there."""
        return process in self.run("ps -e -o comm").split()

    def ssh(self, command: str, **options: Any) -> subprocess.Popen[str]:
        quiet = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
        login = ["ssh", "-q", *quiet, "-i", str(self._network.key), f"root@{self.address}"]
        return subprocess.Popen(
            [*login, f"bash -l -c {shlex.quote(command)}"],
            text=True,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def kill(self) -> None:
        """The machine is gone without a word: no process of it gets to say anything."""
        if self._process is not None and self._process.poll() is None:
            _run("ip", "link", "set", self._outer, "down")  # no connection is even closed
            os.kill(self._process.pid, signal.SIGKILL)  # takes its init and all below along
            self._process.wait()
        # A network namespace that still has a process lives on; its link to us must not.
        subprocess.run(["ip", "link", "del", self._outer], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "del", self._namespace], stderr=subprocess.DEVNULL)

    @property
    def _outer(self) -> str:
        return f"{self._network.name[:8]}{self.address.rpartition('.')[2]}"

    def _set_up(self) -> None:
        for name in ("home/.ssh", "ray"):
            (self.folder / name).mkdir(parents=True)
        home = self.home
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / ".ssh" / "host_key")
        shutil.copy(self._network.key.with_suffix(".pub"), home / ".ssh" / "authorized_keys")
        (home / ".ssh" / "sshd_config").write_text(
            f"ListenAddress {self.address}\nHostKey {HOME}/.ssh/host_key\nPidFile none\n"
            "UsePAM no\nStrictModes no\nPermitRootLogin yes\n"
            f"AuthorizedKeysFile {HOME}/.ssh/authorized_keys\n"
        )
        # As on any Debian or Ubuntu: a login shell reads .profile, which reads .bashrc.
        for name in (".profile", ".bashrc"):
            shutil.copy(f"/etc/skel/{name}", home / name)
        (home / "env").symlink_to(sys.prefix)
        passwd = Path("/etc/passwd").read_text().splitlines()
        passwd[0] = f"root:x:0:0:root:{HOME}:/bin/bash"
        (self.folder / "passwd").write_text("\n".join(passwd) + "\n")

    def _start(self) -> subprocess.Popen[bytes]:
        inner = f"{self._outer}i"
        _run("ip", "netns", "add", self._namespace)
        _run("ip", "link", "add", self._outer, "type", "veth", "peer", "name", inner)
        _run("ip", "link", "set", self._outer, "master", self._network.name, "up")
        _run("ip", "link", "set", inner, "netns", self._namespace)
        _run("ip", "-n", self._namespace, "addr", "add", f"{self.address}/24", "dev", inner)
        _run("ip", "-n", self._namespace, "link", "set", inner, "up")
        clean = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "OMP_NUM_THREADS")}
        shared = ("--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
        with_us = ("setpriv", "--pdeathsig", "KILL")  # no host outlives the tests
        inside = ("ip", "netns", "exec", self._namespace)
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [*with_us, *inside, "unshare", *shared, "bash", "-c", _BOOT],
                env={
                    **clean,
                    "HOME": HOME,
                    "NAME": self.name,
                    "FOLDER": str(self.folder),
                    "HOSTS": str(self.folder.parent),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_for_ssh(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            ready = self.ssh("true", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if ready.wait(timeout=20) == 0:
                return
            log = (self.folder / "log").read_text()
            assert self._process is not None and self._process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.2)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    folder = Path(tempfile.mkdtemp(prefix="hosts-"))
    made = Network(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def missing() -> str | None:
    """What this machine lacks, if it cannot have such hosts."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [
        name
        for name in PROGRAMS
        if shutil.which(name, path=os.defpath + ":/usr/sbin:/sbin") is None
    ]
    if lacking:
        return f"needs {', '.join(lacking)}"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], check=False)
    return "may not make namespaces" if tried.returncode else None


def _run(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
