#!/usr/bin/env python3
"""Renders envoy/envoy.yaml for other addresses, to standard output.

A line ending in `# @NAME` carries a value that a make variable may replace; everything else stays as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import address
from address import Address, Tcp

TEMPLATE = Path(__file__).resolve().parent.parent / "envoy" / "envoy.yaml"
_MARKED = re.compile(r"^(?P<key>\s*\w+: )(?P<value>.+?)(?P<mark>\s+# @(?P<name>[A-Z_]+))$", re.MULTILINE)


def render(*, listen: Tcp, admin: Tcp, upstream: Tcp, router: Address) -> str:
    values = {
        "LISTEN": _yaml(listen),
        "ADMIN": _yaml(admin),
        "UPSTREAM": _yaml(upstream),
        "ROUTER": _yaml(router),
        "ROUTER_TYPE": "STRICT_DNS" if isinstance(router, Tcp) else "STATIC",
    }
    template = TEMPLATE.read_text()
    marks = [mark["name"] for mark in _MARKED.finditer(template)]
    if sorted(marks) != sorted(values):
        raise ValueError(f"{TEMPLATE.name} marks {sorted(marks)}, expected {sorted(values)}")
    return _MARKED.sub(lambda mark: mark["key"] + values[mark["name"]] + mark["mark"], template)


def _yaml(where: Address) -> str:
    if isinstance(where, Tcp):
        # Quoted, because an IPv6 address is full of colons.
        return f'{{socket_address: {{address: "{where.host}", port_value: {where.port}}}}}'
    return f'{{pipe: {{path: "{where.path}"}}}}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The addresses and their defaults, for this script and for those that start an Envoy."""
    parser.add_argument("--listen", type=address.ip_port, default="127.0.0.1:8801", help="where Envoy serves the API")
    parser.add_argument("--admin", type=address.ip_port, default="127.0.0.1:19000", help="where Envoy's admin page is")
    parser.add_argument("--upstream", type=address.host_port, default="127.0.0.1:8002", help="the chat backend")
    parser.add_argument(
        "--router",
        type=address.host_port_or_unix_path,
        default="127.0.0.1:50051",
        help="the router: host:port or unix:/path",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    sys.stdout.write(render(**vars(arguments)))


if __name__ == "__main__":
    main()
