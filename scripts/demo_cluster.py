"""The walk of `make demo-cluster`: the five tests of the semantic-router's Redis Cluster guide, each shown and checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import demo
from redis_cluster import Cluster

_LOG_LINES = (
    "RedisStore: creating cluster client (nodes=6, ",
    "RedisStore: initialized successfully (cluster_mode=true, key_prefix=sr:, ttl=24h0m0s)",
    "Response API enabled with redis backend",
)

# Replication is asynchronous.
_REPLICA_SECONDS = 10

_CONFIG = """\
# Written by scripts/demo_cluster.py.
server:
  listen: "${{ROUTER_LISTEN}}"
  admin_listen: "${{ROUTER_ADMIN_LISTEN}}"
response_api:
  store_backend: redis
  redis:
    cluster_mode: true
    cluster_addresses: [{addresses}]
    key_prefix: "sr:"
"""


def router_config(cluster: Cluster) -> str:
    """The router's config for this cluster."""
    return _CONFIG.format(addresses=", ".join(f'"{node}"' for node in cluster.addresses))


def walk(url: str, model: str, cluster: Cluster, router_log: Path, pause: Callable[[], None]) -> None:
    """Looks for the guide's lines in the router's log and runs its five tests; raises `demo.Unexpected` at the first wrong answer. `pause` is called while one runs."""

    def step(headline: str, command: str) -> demo.Answer:
        demo.say(f"\n=== {headline}\n$ {command}")
        return demo.run(command, pause)

    demo.say("\n=== 0. What the router's log says of the cluster")
    lines = [line for line in router_log.read_text().splitlines() if "RedisStore: " in line or "Response API" in line]
    demo.say("\n".join(lines))
    demo.check("the three lines of the guide", all(any(part in line for line in lines) for part in _LOG_LINES))

    created = step("1. Create a response", demo.create(url, model, "My name is Ada. What is Redis Cluster?"))
    first = demo.show(created)
    demo.check("it completed, with text and an id of ours", demo.is_completed(created, first))

    demo.say("\n=== 2. Where its data lies")
    key = f"sr:response:{first['id']}"
    _check_distribution(cluster, key, pause)

    retrieved = step("3. Retrieve it", demo.retrieve(url, first["id"]))
    demo.check("it is the same, field by field", retrieved.status == 200 and demo.show(retrieved) == first)

    chained = step(
        "4. Continue it, by previous_response_id alone",
        demo.create(url, model, "What is my name?", previous_response_id=first["id"]),
    )
    second = demo.show(chained)
    follows = demo.is_completed(chained, second) and second.get("previous_response_id") == first["id"]
    demo.check("it completed and names its parent", follows)
    if model == demo.ECHO_MODEL:
        demo.check("the backend was sent the whole conversation", "messages=3" in second["output_text"])

    deleted = step("5. Delete the first response", demo.delete(url, first["id"]))
    demo.check("it says so", deleted.status == 200 and demo.show(deleted).get("deleted") is True)
    _await(lambda: not cluster.holders(key), pause)
    _show_nodes(cluster, key)
    demo.check("it is gone from every node", not cluster.holders(key))
    gone = step("   and get it", demo.retrieve(url, first["id"]))
    demo.check("it is not found", gone.status == 404 and "error" in demo.show(gone))

    demo.say("\nAll five tests of the guide passed.")


def _check_distribution(cluster: Cluster, key: str, pause: Callable[[], None]) -> None:
    _await(lambda: len(cluster.holders(key)) == 2, pause)
    _show_nodes(cluster, key)
    holders = cluster.holders(key)
    roles = {port: cluster.role(port) for port in holders}
    masters = [port for port in holders if roles[port].master]
    demo.check("exactly one master has it", len(masters) == 1)
    replicas = [port for port in holders if not roles[port].master]
    demo.check("so has its replica, and no other node", [roles[port].master_port for port in replicas] == masters)


def _show_nodes(cluster: Cluster, key: str) -> None:
    demo.say(f"$ for port in {' '.join(map(str, cluster.ports))}; do redis-cli -p $port keys '{key}'; done")
    holders = cluster.holders(key)
    for port in cluster.ports:
        role = cluster.role(port)
        what = "master" if role.master else f"replica of {role.master_port}"
        demo.say(f"  node {port}  {what:16}  {key if port in holders else '-'}")


def _await(condition: Callable[[], bool], pause: Callable[[], None]) -> None:
    """Waits for a condition for as long as replication may take; whether it holds is for the caller to check."""
    deadline = time.monotonic() + _REPLICA_SECONDS
    while not condition() and time.monotonic() < deadline:
        pause()
