#!/usr/bin/env python3
"""Starts and ends a Redis Cluster on this machine: three masters and a replica of each, as real redis-server processes.

Each node keeps its files in a folder of its own. A process counts as ours when it is a redis-server that works in that
folder, whatever the pid file says.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import address
from address import Tcp

HOST = "127.0.0.1"
NODES = 6
# Nodes speak to each other on this much higher a port.
BUS_OFFSET = 10000
# The last base whose bus ports are ports.
MAX_BASE = 65535 - BUS_OFFSET - NODES + 1

_START_SECONDS = 60
_STOP_SECONDS = 10
_COMMAND_SECONDS = 30
_POLL_SECONDS = 0.1
_SLOTS = 16384


class ClusterError(Exception):
    """The cluster cannot be started, asked or ended; the message says why."""


@dataclass(frozen=True)
class Role:
    """What a node is, by its own word."""

    master: bool
    master_port: int
    """Its own port if it is a master."""


@dataclass(frozen=True)
class Cluster:
    folder: Path
    base: int

    @property
    def ports(self) -> range:
        return range(self.base, self.base + NODES)

    @property
    def addresses(self) -> list[str]:
        return [f"{HOST}:{port}" for port in self.ports]

    def node_folder(self, port: int) -> Path:
        return self.folder / str(port)

    def node_argv(self, port: int) -> list[str]:
        """The command of one node, in the foreground."""
        folder = self.node_folder(port)
        return [
            *("redis-server", "--port", str(port), "--bind", HOST, "--dir", str(folder)),
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "5000"),
            *("--appendonly", "yes", "--save", ""),
        ]

    def taken(self, nodes: Iterable[int]) -> list[str]:
        """Says for each port that these nodes need and cannot listen on why not and what to do."""
        wanted = [port for node in nodes for port in (node, node + BUS_OFFSET)]
        return [problem for port in wanted for problem in address.unavailable({"REDIS_PORT": Tcp(HOST, port)})]

    def form(self, pause: Callable[[], None]) -> None:
        """Makes a cluster of the running nodes unless they are one, and waits until each says that it is whole."""
        if "cluster_slots_assigned:0" in cli(self.base, "cluster", "info"):
            cli(self.base, "--cluster", "create", *self.addresses, "--cluster-replicas", "1", "--cluster-yes")
        deadline = time.monotonic() + _START_SECONDS
        for port in self.ports:
            while not self._is_whole(port):
                if time.monotonic() > deadline:
                    raise ClusterError(f"node {port} did not join a whole cluster within {_START_SECONDS} s")
                pause()

    def role(self, port: int) -> Role:
        kind, *rest = cli(port, "role").splitlines()
        return Role(master=kind == "master", master_port=port if kind == "master" else int(rest[1]))

    def holders(self, key: str) -> list[int]:
        """The nodes on which this key lies, asked one by one."""
        return [port for port in self.ports if cli(port, "keys", key).split() == [key]]

    def _is_whole(self, port: int) -> bool:
        info = cli(port, "cluster", "info").split()
        wanted = ("cluster_state:ok", f"cluster_slots_ok:{_SLOTS}", f"cluster_known_nodes:{NODES}")
        if not all(word in info for word in wanted):
            return False
        # A replica that is still copying does not have what its master has.
        role = cli(port, "role").splitlines()
        return role[0] == "master" or role[3] == "connected"


def cli(port: int, *arguments: str) -> str:
    """What redis-cli says of a node; raises when it fails or Redis answers with an error."""
    command = ["redis-cli", "-h", HOST, "-p", str(port), *(() if arguments[0] == "--cluster" else ("-e",)), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"node {port} did not answer {arguments[0]} within {_COMMAND_SECONDS} s") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise ClusterError(f"node {port} answered {arguments[0]} with: {said[-1] if said else done.returncode}")
    return done.stdout


def require_redis() -> None:
    """Raises, with what installs it, when Redis is not there."""
    if missing := [name for name in ("redis-server", "redis-cli") if not shutil.which(name)]:
        raise ClusterError(
            f"Missing: {', '.join(missing)}\n"
            "Install them with: sudo apt-get update && sudo apt-get install -y redis-server redis-tools"
        )


def free_base(first: int = 7101, last: int = 9901) -> int:
    """A base whose ports are all free."""
    for base in range(first, last, 10):
        cluster = Cluster(Path(), base)
        if not cluster.taken(cluster.ports):
            return base
    raise ClusterError(f"no {NODES} free ports in a row from {first} to {last}")


def start(cluster: Cluster) -> str:
    """Starts what does not run, in the background; says what was done."""
    require_redis()
    missing = [port for port in cluster.ports if _ours(cluster.node_folder(port)) is None]
    # A node that was killed is gone before its last thread is, which still has its ports.
    deadline = time.monotonic() + (_STOP_SECONDS if any(map(_was_started, map(cluster.node_folder, missing))) else 0)
    while problems := cluster.taken(missing):
        if time.monotonic() > deadline:
            raise ClusterError("\n".join(problems))
        time.sleep(_POLL_SECONDS)
    for port in missing:
        folder = cluster.node_folder(port)
        folder.mkdir(parents=True, exist_ok=True)
        background = ("--daemonize", "yes", "--pidfile", str(folder / "redis.pid"), "--logfile", "redis.log")
        done = subprocess.run([*cluster.node_argv(port), *background], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"redis-server on port {port} did not start: {(done.stdout + done.stderr).strip()}")
    for port in missing:
        _wait(lambda: Tcp(HOST, port).accepts(), f"redis-server on port {port} was not up", _START_SECONDS)
    cluster.form(pause=lambda: time.sleep(_POLL_SECONDS))
    return "it runs already" if not missing else f"started {len(missing)} nodes"


def stop(folder: Path) -> int:
    """Ends the nodes that work in the folders under `folder` and removes them; returns how many there were."""
    running = {node: pid for node in _node_folders(folder) if (pid := _ours(node)) is not None}
    for signum, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        left = [pid for node, pid in running.items() if _ours(node) == pid]
        for pid in left:
            _signal(pid, signum)
        deadline = time.monotonic() + seconds
        while any(_ours(node) for node in running) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    if any(_ours(node) for node in running):
        raise ClusterError("some nodes do not end")
    shutil.rmtree(folder, ignore_errors=True)
    return len(running)


def _node_folders(folder: Path) -> Sequence[Path]:
    return [node for node in folder.iterdir() if node.is_dir()] if folder.is_dir() else []


def _was_started(node: Path) -> bool:
    return (node / "redis.pid").exists()


def _ours(node: Path) -> int | None:
    """The pid of the redis-server that works in this folder."""
    try:
        pid = int((node / "redis.pid").read_text())
        process = Path("/proc") / str(pid)
        if (process / "comm").read_text().strip() == "redis-server" and (process / "cwd").resolve() == node.resolve():
            return pid
    except (OSError, ValueError):
        pass
    return None


def _signal(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def _wait(condition: Callable[[], bool], problem: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{problem} within {seconds} s")
        time.sleep(_POLL_SECONDS)


def _base(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= MAX_BASE:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to {MAX_BASE}: the bus ports are {BUS_OFFSET} higher")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("start", "stop"))
    parser.add_argument("--port", type=_base, default=7001, help=f"first of the {NODES} ports")
    parser.add_argument("--folder", type=Path, default=Path(".run/redis-cluster"), help="where the nodes keep their files")
    options = parser.parse_args()
    cluster = Cluster(options.folder.resolve(), options.port)
    try:
        if options.what == "start":
            done = start(cluster)
            masters = [str(port) for port in cluster.ports if cluster.role(port).master]
            print(f"Redis Cluster: {done}; nodes {' '.join(cluster.addresses)}; masters {' '.join(masters)}")
        else:
            print(f"Redis Cluster: ended {stop(cluster.folder)} nodes")
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
