"""Topologies run for real, as far as that goes without Docker and Kubernetes: the programs, configs, users, commands and
probes of the image, of compose and of the sidecar, and what Envoy Gateway and Istio are told, in a network that has their
names. The manifests of shared routers are validated only, by test_files. Needs root, for the network and for chroot."""

from __future__ import annotations

import json
import os
import re
import subprocess
import unittest

import yaml
from sources import Object, container, is_watched, manifest, run
from topology import API, COMPOSE, ENVOY_ADMIN, ROUTER_ADMIN, Topology, compose_address, compose_services, status
from upstream import SlowUpstream

import equivalents
import namespace
from address import Tcp, Unix

needs_root = unittest.skipUnless(namespace.is_possible(), "needs root, with a network of its own, chroot and other users")
PASSWORD = "secret-of-the-test"


@needs_root
class TheImage(Topology):
    def test_it_serves_and_answers_its_health_check_with_nothing_but_its_files(self) -> None:
        command = [*self.image.entrypoint, *self.image.command]
        part = self.part("router", self.image.argv(self.root, command, {}), lambda: status(ROUTER_ADMIN, "/readyz") == 200)
        # Nothing listens yet.
        self.assertEqual(self.image.run(self.root, self.image.health).returncode, 1)
        self.start(part)
        healthy = self.image.run(self.root, self.image.health)
        self.assertEqual(healthy.returncode, 0, healthy.stderr)
        self.assertTrue(Tcp("127.0.0.1", 50051).accepts())


@needs_root
class Compose(Topology):
    hosts = {f"redis-{number}": f"172.30.57.{10 + number}" for number in range(1, 7)} | {
        name: "127.0.0.1" for name in ("router", "llm-katan", "envoy")
    }
    networks = ["172.30.57.0/24"]

    def test_it_serves_and_every_health_check_says_so(self) -> None:
        services = compose_services()
        self.assertEqual(self.hosts["redis-6"], compose_address(services["redis-6"]))
        self.redis_cluster()
        self.start(self.echo(services["llm-katan"]["command"][1:], port=8000))
        self.start(self.router((COMPOSE / "router.yaml").read_text(), services["router"]["command"]))
        envoy, user = services["envoy"], int(services["envoy"]["user"].split(":")[0])
        self.start(self.envoy((COMPOSE / "envoy.yaml").read_text(), envoy["command"][1:], user))

        kept = self.walk()

        key = f"sr:response:{kept['id']}"
        nodes = [compose_address(services[f"redis-{number}"]) for number in range(1, 7)]

        def holders() -> list[str]:
            return [node for node in nodes if key in run(["redis-cli", "-h", node, "keys", "sr:*"]).stdout.split()]

        self.until(lambda: len(holders()) == 2, "a master and its replica have it")
        for name, service in services.items():
            if name == "redis-cluster":
                continue
            kind, *check = service["healthcheck"]["test"]
            self.assertEqual(kind, "CMD")
            if name.startswith("redis-"):
                check[1:1] = ["-h", compose_address(service)]
            done = self.image.run(self.root, check) if name == "router" else run(check)
            self.assertEqual(done.returncode, 0, f"{name}: {done.stdout}{done.stderr}")


@needs_root
class Sidecar(Topology):
    hosts = {
        "redis-cluster.redis.svc.cluster.local": "172.30.57.11",
        "chat-backend.models.svc.cluster.local": "127.0.0.1",
    }
    networks = ["172.30.57.0/24"]

    def setUp(self) -> None:
        super().setUp()
        pod = manifest("sidecar", "Deployment", "responses-envoy")["spec"]["template"]["spec"]
        self.user = pod["securityContext"]["runAsUser"]
        self.assertEqual(self.user, self.image.user)
        self.redis_cluster("--requirepass", PASSWORD, "--masterauth", PASSWORD)
        # The emptyDir, which both containers see in the same place.
        socket = self.folder / "socket"
        socket.mkdir()
        os.chown(socket, self.user, self.user)
        for mount in ("/run/responses-router", f"{self.root}/run/responses-router"):
            self.namespace.bind(socket, type(socket)(mount))
        config = manifest("sidecar", "ConfigMap", "responses-envoy-router")["data"]["config.yaml"]
        router = container("sidecar", "responses-envoy", "router")
        names = [entry["name"] for entry in router["env"]]
        self.assertIn("REDIS_PASSWORD", names)
        self.start(self.router(config, router["args"], {"REDIS_PASSWORD": PASSWORD}))
        self.assertTrue(Unix("/run/responses-router/ext_proc.sock").accepts())
        envoy = container("sidecar", "responses-envoy", "envoy")
        self.assertEqual(envoy["command"], ["envoy"])
        config = manifest("sidecar", "ConfigMap", "responses-envoy")["data"]["envoy.yaml"]
        self.start(self.envoy(config, envoy["args"], self.user))

    def probe(self, name: str, kind: str) -> int:
        found = container("sidecar", "responses-envoy", name)
        get = found[kind]["httpGet"]
        (port,) = [port["containerPort"] for port in found["ports"] if port["name"] == get["port"]]
        return status(Tcp("127.0.0.1", port), get["path"])

    def test_it_serves_over_the_socket_and_its_probes_say_so(self) -> None:
        self.start(self.echo(["--backend", "echo", "--model", "echo", "--port", "8000"], port=8000))
        self.walk()
        for name in ("router", "envoy"):
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                self.assertEqual(self.probe(name, kind), 200, f"{kind} of {name}")
        self.assertEqual(status(Tcp("127.0.0.1", 19001), "/stats/prometheus"), 200)
        self.assertEqual(status(Tcp("127.0.0.1", 19001), "/quitquitquit"), 404)

    def test_a_stream_that_lives_when_the_pod_ends_is_finished_before_envoy_is_told_to(self) -> None:
        upstream = self.enterContext(SlowUpstream(8000))
        body = json.dumps({"model": "slow", "input": "Hi", "stream": True})
        curl = ["curl", "-sSN", f"http://{API}/v1/responses", "-H", "content-type: application/json", "-d", body]
        with subprocess.Popen(curl, stdout=subprocess.PIPE, text=True) as client:
            self.assertEqual(client.stdout.readline(), "event: response.created\n")
            hook = container("sidecar", "responses-envoy", "envoy")["lifecycle"]["preStop"]["exec"]["command"]
            with subprocess.Popen(hook, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as stopping:
                _, router = self.running.take("router")
                self.addCleanup(router.kill)
                router.terminate()
                self.until(lambda: '"stopping' in self.log("router"), "the router drains")
                upstream.finish()
                rest = client.stdout.read()
                self.assertIn("event: response.completed\n", rest)
                self.assertEqual(client.wait(timeout=10), 0)
                output, _ = stopping.communicate(timeout=30)
                self.assertEqual((stopping.returncode, output), (0, ""))
        self.assertEqual(router.wait(timeout=30), 0)
        self.assertIn('"stopped"', self.log("router"))


@needs_root
class ControlPlanes(Topology):
    def serve(self, config: Object) -> None:
        self.start(self.echo(["--backend", "echo", "--model", "echo", "--port", "8000"], port=8000))
        self.start(self.router("", ["--config", "/etc/responses-router/empty.yaml"]))
        arguments = ["-c", "/etc/envoy/envoy.yaml", "--concurrency", "1", "--disable-hot-restart"]
        self.start(self.envoy(yaml.safe_dump(config), arguments))
        self.walk()
        # Only /v1/responses itself goes through the router.
        before = self.streams()
        # The backend's own words: it wants a key, and has no such path.
        self.assertEqual(status(API, "/v1/models"), 401)
        self.assertEqual(status(API, "/v1/responsesX"), 404)
        self.assertEqual(self.streams(), before)
        self.watched()

    def watched(self) -> None:
        """What Prometheus is told of the routers' cluster has the metrics, labels and names that the alerts ask for."""
        told = run(["curl", "-sS", f"http://{ENVOY_ADMIN}/stats/prometheus"]).stdout
        for metric in ("upstream_cx_connect_fail", "upstream_rq_active_overflow"):
            names = re.findall(rf'^envoy_cluster_{metric}{{(?:envoy_)?cluster_name="(.+?)"}}', told, re.MULTILINE)
            self.assertEqual([is_watched(name) for name in names].count(True), 1, names)
            self.assertGreater(len(names), 1)

    def without_the_router(self, wanted: str) -> None:
        """What a client gets then: the status, and an error that Envoy makes."""
        _, router = self.running.take("router")
        router.kill()
        router.wait()
        curl = ["curl", "-sS", "-w", " %{http_code}", f"http://{API}/v1/responses", "-d", "{}"]
        body, _, code = run(curl).stdout.rpartition(" ")
        self.assertEqual(code, wanted)
        self.assertEqual(json.loads(body)["error"]["code"], "service_unavailable")

    def streams(self) -> str:
        stats = run(["curl", "-sS", f"http://{ENVOY_ADMIN}/stats?filter=ext_proc.streams_started"]).stdout
        self.assertIn("streams_started", stats)
        return stats

    def test_what_istio_is_told_serves(self) -> None:
        self.serve(equivalents.istio())
        self.without_the_router("503")

    def test_what_envoy_gateway_is_told_serves(self) -> None:
        self.serve(equivalents.envoy_gateway(patched=True))
        # It has no field for status_on_error.
        self.without_the_router("500")
