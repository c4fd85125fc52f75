"""The addresses the make variables carry: `host:port`, `[ipv6]:port` or `unix:/path`."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from dataclasses import dataclass

# Narrower than DNS allows, so that a host can stand in YAML and in URLs unquoted.
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+")
_PATH = re.compile(r"/[A-Za-z0-9._/-]+")
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class Tcp:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def dialled(self) -> Tcp:
        """The address to connect to when this one is listened on."""
        return Tcp(_WILDCARDS.get(self.host, self.host), self.port)

    def accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.dialled().host, self.port), timeout=1):
            return True
        return False


@dataclass(frozen=True)
class Unix:
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"

    def accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.connect(self.path)
            return True
        return False


Address = Tcp | Unix


def host_port(text: str) -> Tcp:
    """Parses `host:port` or `[ipv6]:port`; a ValueError says what is wrong."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    valid_host = _IPV6.fullmatch(host[1:-1]) if bracketed else _HOST.fullmatch(host)
    if not (colon and valid_host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not host:port")
    return Tcp(host[1:-1] if bracketed else host, int(port))


def ip_port(text: str) -> Tcp:
    """Parses what `host_port` takes and looks a name up, since Envoy listens on IP addresses only."""
    named = host_port(text)
    try:
        found = socket.getaddrinfo(named.host, named.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"{named.host}: {error.strerror}") from error
    # IPv4 first, as for the clusters in envoy.yaml: localhost then means the same on both sides.
    _, where = min((family != socket.AF_INET, where) for family, _, _, _, where in found)
    return Tcp(where[0], named.port)


def host_port_or_unix_path(text: str) -> Address:
    """Parses what `host_port` takes, or `unix:/path`."""
    if not text.startswith("unix:"):
        return host_port(text)
    path = text.removeprefix("unix:")
    if not _PATH.fullmatch(path):
        raise ValueError(f"{text!r} is not unix:/absolute/path")
    return Unix(path)


def unavailable(wanted: dict[str, Address]) -> list[str]:
    """Says for each variable whose address cannot be listened on why not and what to do.

    All are held at the same time, so that two variables with one port are found out as well. Unix sockets are left to
    their server, which has to replace the file a killed predecessor left.
    """
    problems = []
    with contextlib.ExitStack() as held:
        for variable, address in wanted.items():
            if isinstance(address, Tcp) and (reason := _bind(address, held)):
                problems.append(f"{reason}; choose another address with {variable}=")
    return problems


def _bind(address: Tcp, held: contextlib.ExitStack) -> str | None:
    try:
        family, kind, proto, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        sock = held.enter_context(socket.socket(family, kind, proto))
        # As servers do: connections in TIME_WAIT from a previous run do not count.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {address.port} on {address.host} is taken (`ss -ltnp sport = :{address.port}` shows by what)"
        return f"cannot listen on {address}: {error.strerror}"
    return None
