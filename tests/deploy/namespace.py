"""A network and a file system view of this process' own, so that topologies run with the names and ports that they have."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

_NEW_MOUNTS = 0x00020000
_NEW_NETWORK = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def is_possible() -> bool:
    """Whether this process may have one: root may, unless a container keeps it from that."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode == 0


class Namespace:
    """While it is entered, this thread and the processes that it starts see the loopback interface alone, with more
    addresses and host names. Needs root."""

    def __init__(self, hosts: dict[str, str], networks: list[str]) -> None:
        self._hosts = hosts
        self._networks = networks
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Namespace:
        folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="responses-router-deploy-")))
        cwd = Path.cwd()
        outside = [os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt")]

        def leave() -> None:
            for file in outside:
                _check(_LIBC.setns(file, 0))
                os.close(file)
            os.chdir(cwd)

        _check(_LIBC.unshare(_NEW_NETWORK | _NEW_MOUNTS))
        self._cleanup.callback(leave)
        _run("mount", "--make-rprivate", "/")
        _run("ip", "link", "set", "lo", "up")
        for network in self._networks:
            _run("ip", "route", "add", "local", network, "dev", "lo")
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._hosts.items())]
        (folder / "hosts").write_text("\n".join([*lines, ""]))
        self.bind(folder / "hosts", Path("/etc/hosts"))
        _run("mount", "-t", "tmpfs", "-o", "mode=0755", "none", "/run")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._cleanup.close()

    def bind(self, source: Path, target: Path) -> None:
        """Shows a file or a folder in another place."""
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir() if source.is_dir() else target.touch()
        _run("mount", "--bind", str(source), str(target))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
