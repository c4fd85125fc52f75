"""Tests of the local Redis Cluster, with real servers on free ports. Run by `make test`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest
from pathlib import Path

import redis_cluster
from redis_cluster import Cluster, ClusterError
from test_tooling import has_ended


class Addresses(unittest.TestCase):
    def test_a_taken_port_is_explained_with_its_variable(self) -> None:
        with socket.create_server((redis_cluster.HOST, 0)) as taken:
            port = taken.getsockname()[1]
            (problem,) = Cluster(Path(), port).taken([port])[:1]
        self.assertIn(f"port {port}", problem)
        self.assertIn("REDIS_PORT=", problem)


@unittest.skipUnless(shutil.which("redis-server") and shutil.which("redis-cli"), "needs redis-server")
class RedisCluster(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self.cluster = Cluster(self.folder / "cluster", redis_cluster.free_base(first=21001, last=29001))
        self.addCleanup(redis_cluster.stop, self.cluster.folder)

    def pids(self) -> list[int]:
        return [int((self.cluster.node_folder(port) / "redis.pid").read_text()) for port in self.cluster.ports]

    def test_it_is_started_once_repaired_and_ended_wholly(self) -> None:
        redis_cluster.start(self.cluster)
        roles = [self.cluster.role(port) for port in self.cluster.ports]
        masters = [port for port, role in zip(self.cluster.ports, roles, strict=True) if role.master]
        self.assertEqual(len(masters), 3)
        self.assertEqual(sorted(role.master_port for role in roles if not role.master), masters)

        before = self.pids()
        self.assertEqual(redis_cluster.start(self.cluster), "it runs already")
        self.assertEqual(self.pids(), before)

        os.kill(before[5], signal.SIGKILL)
        self.assertTrue(has_ended(before[5]))
        self.assertEqual(redis_cluster.start(self.cluster), "started 1 nodes")
        self.assertEqual(self.pids()[:5], before[:5])

        running = self.pids()
        # One that hangs is ended as well.
        os.kill(running[0], signal.SIGSTOP)
        self.assertEqual(redis_cluster.stop(self.cluster.folder), 6)
        self.assertTrue(all(has_ended(pid) for pid in running))
        self.assertFalse(self.cluster.folder.exists())
        self.assertEqual(redis_cluster.stop(self.cluster.folder), 0)

    def test_a_process_that_is_not_ours_is_let_live(self) -> None:
        with subprocess.Popen(["sleep", "1000"]) as other:
            self.addCleanup(other.kill)
            folder = self.cluster.node_folder(self.cluster.base)
            folder.mkdir(parents=True)
            (folder / "redis.pid").write_text(f"{other.pid}\n")
            self.assertEqual(redis_cluster.stop(self.cluster.folder), 0)
            self.assertIsNone(other.poll())
            other.kill()

    def test_an_error_of_redis_is_raised(self) -> None:
        with self.assertRaisesRegex(ClusterError, "answered ping"):
            redis_cluster.cli(self.cluster.base, "ping")


if __name__ == "__main__":
    unittest.main()
