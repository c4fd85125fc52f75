"""Where the files under test are, and what they hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = DEPLOY / "compose"
BIN = Path(sys.executable).parent
"""The validators'."""
VENV_BIN = Path(os.environ["RESPONSES_ROUTER_VENV"]) / "bin"
"""Envoy's and the echo backend's."""
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()

sys.path.insert(0, str(ROOT / "scripts"))

Object = dict[str, Any]


def documents(file: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def manifests() -> dict[Path, list[Object]]:
    """All Kubernetes manifests, but for kustomize's own files."""
    files = sorted(KUBERNETES.glob("*/*.yaml"))
    return {file: documents(file) for file in files if file.name != "kustomization.yaml"}


def manifest(folder: str, kind: str, name: str) -> Object:
    found = [
        document
        for file, documents in manifests().items()
        if file.parent.name == folder
        for document in documents
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    ]
    (document,) = found
    return document


def container(folder: str, deployment: str, name: str) -> Object:
    spec = manifest(folder, "Deployment", deployment)["spec"]["template"]["spec"]
    (found,) = [container for container in spec["containers"] if container["name"] == name]
    return found


def envoy_binary() -> Path:
    """The real one, which the program in the virtual environment's bin only starts."""
    (binary,) = VENV_BIN.parent.glob("lib/python*/site-packages/envoy/_bin/envoy")
    return binary


def run(argv: list[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False, **options)


def manager(config: Object) -> Object:
    """The HTTP connection manager that serves the Responses API."""
    listener = config["static_resources"]["listeners"][0]
    found: Object = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def is_watched(cluster: str) -> bool:
    """Whether the alerts and the dashboard take a cluster of this name for the routers'."""
    files = [ROOT / "config/prometheus/alerts.yaml", ROOT / "config/grafana/dashboard.json"]
    patterns = [re.findall(r'cluster_name=~\\?"(.+?)\\?"', file.read_text()) for file in files]
    # Two metrics in each, of which each has two labels.
    assert [len(found) for found in patterns] == [4, 4]
    (pattern,) = {pattern for found in patterns for pattern in found}
    return re.fullmatch(pattern, cluster) is not None
