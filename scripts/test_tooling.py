"""Tests of the scripts and of the Envoy configuration. Run by `make test` with the Python of .venv."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

import yaml

import address
import deploy_configs
import envoy_config
import stack
from address import Tcp, Unix

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DEFAULTS: dict[str, Any] = {
    "listen": Tcp("127.0.0.1", 8801),
    "admin": Tcp("127.0.0.1", 19000),
    "upstream": Tcp("127.0.0.1", 8002),
    "router": Tcp("127.0.0.1", 50051),
}


class Addresses(unittest.TestCase):
    def test_what_is_parsed_prints_the_same(self) -> None:
        for text in ("127.0.0.1:1", "my-host.example:65535", "[::1]:80", "unix:/run/router.sock"):
            self.assertEqual(str(address.host_port_or_unix_path(text)), text)

    def test_what_is_no_address_is_refused(self) -> None:
        for text in ("", "8801", "host:", ":80", "host:0", "host:65536", "::1:80", 'a"b:1', "unix:relative", "[host]:1"):
            with self.subTest(text), self.assertRaises(ValueError):
                address.host_port_or_unix_path(text)

    def test_a_taken_port_is_explained_with_its_variable(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            (problem,) = address.unavailable({"LISTEN": Tcp("127.0.0.1", port)})
        self.assertIn(f"port {port}", problem)
        self.assertIn("LISTEN=", problem)

    def test_two_variables_with_one_port_are_found_out(self) -> None:
        same = Tcp("127.0.0.1", free_port())
        (problem,) = address.unavailable({"LISTEN": same, "ADMIN": same})
        self.assertIn("ADMIN=", problem)


class EnvoyConfig(unittest.TestCase):
    def test_the_defaults_render_to_the_file_itself(self) -> None:
        self.assertEqual(envoy_config.render(**DEFAULTS), envoy_config.TEMPLATE.read_text())

    def test_envoy_accepts_every_kind_of_address(self) -> None:
        variants: list[dict[str, Any]] = [
            {},
            {"upstream": Tcp("backend.example", 443)},
            {"listen": Tcp("::1", 8801), "upstream": Tcp("::1", 8002), "router": Tcp("::1", 50051)},
            {"router": Unix("/run/router.sock")},
        ]
        for variant in variants:
            with self.subTest(variant), tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(envoy_config.render(**DEFAULTS | variant))
                file.flush()
                validated = subprocess.run(
                    [BIN / "envoy", "--mode", "validate", "--disable-hot-restart", "-c", file.name],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                self.assertEqual(validated.returncode, 0, validated.stderr)

    def test_the_stanza_is_part_of_the_whole(self) -> None:
        whole = yaml.safe_load(envoy_config.TEMPLATE.read_text())["static_resources"]
        stanza = yaml.safe_load((ROOT / "envoy/filter-stanza.yaml").read_text())
        manager = whole["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        for key in ("early_header_mutation_extensions", "local_reply_config", "access_log"):
            self.assertEqual(stanza[key], manager[key])
        self.assertEqual(stanza["http_filters"], manager["http_filters"][:1])
        self.assertEqual(stanza["routes"], manager["route_config"]["virtual_hosts"][0]["routes"][:1])
        self.assertEqual(stanza["clusters"], whole["clusters"][1:])


class DeployConfigs(unittest.TestCase):
    def test_what_deploy_copies_from_envoys_config_is_up_to_date(self) -> None:
        for file, text in deploy_configs.copies().items():
            with self.subTest(file.relative_to(ROOT)):
                self.assertEqual(file.read_text(), text, "`make deploy-configs` writes it anew")


class Supervision(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def start_router(self, program: str) -> subprocess.Popen[str]:
        """Starts `stack.py router` with a shell script in the router's place, and waits for its first output."""
        binary = self.folder / "router"
        binary.write_text(f"#!/bin/sh\n{program}\n")
        binary.chmod(0o755)
        process = subprocess.Popen(
            [
                *(sys.executable, ROOT / "scripts/stack.py", "router", "--router", f"127.0.0.1:{free_port()}"),
                *("--router-admin", f"127.0.0.1:{free_port()}"),
                *("--router-bin", binary, "--router-log", self.folder / "router.log"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_a_signal_reaches_the_router_and_its_last_words_are_heard(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(signum):
                process = self.start_router('trap "echo drained; exit 0" TERM; echo $$; while :; do sleep 0.05; done')
                pid = int(process.stdout.readline())
                process.send_signal(signum)
                output, _ = process.communicate(timeout=10)
                self.assertEqual((output, process.returncode), ("drained\n", 0))
                self.assertEqual((self.folder / "router.log").read_text(), f"{pid}\ndrained\n")
                self.assertTrue(has_ended(pid))

    def test_a_second_signal_kills_a_router_that_does_not_end(self) -> None:
        process = self.start_router('trap "echo deaf" TERM; echo $$; while :; do sleep 0.05; done')
        pid = int(process.stdout.readline())
        process.terminate()
        self.assertEqual(process.stdout.readline(), "deaf\n")
        time.sleep(stack.SAME_SIGNAL_SECONDS)
        process.terminate()
        process.communicate(timeout=10)
        self.assertTrue(has_ended(pid))

    def test_one_signal_that_arrives_twice_lets_the_router_drain(self) -> None:
        process = self.start_router('trap "sleep 0.3; echo drained; exit 0" TERM; echo $$; while :; do sleep 0.05; done')
        process.stdout.readline()
        process.terminate()
        time.sleep(0.1)
        process.terminate()
        output, _ = process.communicate(timeout=10)
        self.assertEqual(output, "drained\n")

    def test_what_the_router_leaves_behind_is_ended_too(self) -> None:
        process = self.start_router("sleep 1000 & echo $!; exit 3")
        pid = int(process.stdout.readline())
        _, errors = process.communicate(timeout=10)
        self.assertEqual(process.returncode, 1)
        self.assertIn("the router ended with exit code 3", errors)
        self.assertTrue(has_ended(pid))

    @unittest.skipUnless(sys.platform == "linux", "needs PR_SET_PDEATHSIG")
    def test_the_router_does_not_outlive_a_killed_supervisor(self) -> None:
        process = self.start_router("echo $$; while :; do sleep 0.05; done")
        pid = int(process.stdout.readline())
        process.kill()
        self.assertTrue(has_ended(pid))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie of someone else, within five seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


if __name__ == "__main__":
    unittest.main()
