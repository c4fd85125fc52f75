#!/usr/bin/env python3
"""Writes what deploy/ copies from envoy/, the one source of the filter: whole configs with other addresses, and pieces.

`make deploy-configs` runs it after a change there; a test fails while a copy is out of date. A piece stands between the
lines `# copied: NAME` and `# end`.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import envoy_config
from address import Tcp, Unix

ROOT = Path(__file__).resolve().parent.parent
STANZA = ROOT / "envoy/filter-stanza.yaml"

# Not reachable from outside the container: it can end the process.
_ADMIN = Tcp("127.0.0.1", 19000)
_LISTEN = Tcp("0.0.0.0", 8801)
_SOCKET = Unix("/run/responses-router/ext_proc.sock")

_COMPOSE = """\
# The Envoy of docker-compose.yaml: envoy/envoy.yaml with the services' names. Written by `make deploy-configs`.

"""

_SIDECAR = """\
# The Envoy of sidecar.yaml: envoy/envoy.yaml with the router on the pod's socket, and a second listener for the kubelet
# and Prometheus. Written by `make deploy-configs`. In your copy, put your backend's address in the cluster `upstream`.
apiVersion: v1
kind: ConfigMap
metadata:
  name: responses-envoy
  labels: {app.kubernetes.io/name: responses-envoy, app.kubernetes.io/part-of: responses-router}
data:
  envoy.yaml: |
"""

# Two paths of the admin page and nothing else of it, for those outside the pod.
STATUS_LISTENER = """\
  - name: status
    address: {socket_address: {address: "0.0.0.0", port_value: 19001}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: status
          route_config:
            name: status
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {path: /ready}
                route: {cluster: admin}
              - match: {path: /stats/prometheus}
                route: {cluster: admin}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router

"""

STATUS_CLUSTER = """\

  - name: admin
    type: STATIC
    load_assignment:
      cluster_name: admin
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {socket_address: {address: "127.0.0.1", port_value: 19000}}
"""


_OF_THE_MANAGER = ("early_header_mutation_extensions", "access_log")
_WITH_PIECES = ("deploy/kubernetes/envoy-gateway/patch.yaml", "deploy/kubernetes/istio/responses.yaml")

_ISTIO_HOST = "responses-router.responses-router.svc.cluster.local"
# Envoy takes the cluster's name for :authority unless it is told another; this one is none that a server would accept.
_ISTIO_CLUSTER = f'cluster_name: "outbound|50051||{_ISTIO_HOST}", authority: "{_ISTIO_HOST}"'

_COPIED = re.compile(r"(?P<begin>^(?P<indent> *)# copied: (?P<name>\w+)\n).*?(?P<end>^ *# end$)", re.MULTILINE | re.DOTALL)


def pieces() -> dict[str, str]:
    """The pieces of the stanza by name, without indentation."""
    sections = dict(re.findall(r"^(\w+):\n((?:[ #-].*\n)+)", STANZA.read_text(), re.MULTILINE))
    filters = sections["http_filters"].replace("- name", "  name", 1)
    cluster = "cluster_name: responses-router"
    if filters.count(cluster) != 1 or sections["http_filters"].count("\n- ") != 0:
        raise ValueError("the stanza has not one filter with the router's cluster")
    return {
        "local_reply_config": textwrap.dedent(sections["local_reply_config"]).strip("\n"),
        **{name: textwrap.dedent(sections[name]).strip("\n") for name in _OF_THE_MANAGER if name in sections},
        "istio_filter": textwrap.dedent(filters.replace(cluster, _ISTIO_CLUSTER)).strip("\n"),
    }


def _with_pieces(file: Path) -> str:
    found = pieces()

    def copied(mark: re.Match[str]) -> str:
        return mark["begin"] + textwrap.indent(found[mark["name"]], mark["indent"]) + "\n" + mark["end"]

    return _COPIED.sub(copied, file.read_text())


def copies() -> dict[Path, str]:
    """Each file under deploy/ that copies from envoy/, and what it has to hold."""
    upstream = Tcp("llm-katan", 8000)
    compose = envoy_config.render(listen=_LISTEN, admin=_ADMIN, upstream=upstream, router=Tcp("router", 50051))
    upstream = Tcp("chat-backend.models.svc.cluster.local", 8000)
    sidecar = envoy_config.render(listen=_LISTEN, admin=_ADMIN, upstream=upstream, router=_SOCKET)
    before, clusters, after = sidecar.partition("  clusters:\n")
    sidecar = before + STATUS_LISTENER + clusters + after.rstrip("\n") + "\n" + STATUS_CLUSTER
    return {
        ROOT / "deploy/compose/envoy.yaml": _COMPOSE + _without_how_to(compose),
        ROOT / "deploy/kubernetes/sidecar/envoy-config.yaml": _SIDECAR
        + textwrap.indent(_without_how_to(sidecar), "    "),
    } | {file: _with_pieces(file) for file in map(ROOT.joinpath, _WITH_PIECES)}


def _without_how_to(rendered: str) -> str:
    """Without what the source says of itself, down to the first blank line, and without its marks."""
    _, _, rest = rendered.partition("\n\n")
    return "".join(f"{line.partition('  # @')[0].rstrip()}\n" for line in rest.splitlines())


def main() -> int:
    for file, text in copies().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
