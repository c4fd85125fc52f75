"""The image of deploy/docker/Dockerfile as a folder: made by the same build.sh, run under chroot as the same user."""

from __future__ import annotations

import functools
import json
import re
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sources import DEPLOY, ROOT, TARGET, run

DOCKERFILE = DEPLOY / "docker/Dockerfile"
_CONTEXT = TARGET / "deploy/context"
_ROOTFS = TARGET / "deploy/rootfs"
# Often in a folder of which only root's PATH knows.
_CHROOT = shutil.which("chroot", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "chroot"


@dataclass(frozen=True)
class Image:
    rootfs: Path
    """What the Dockerfile adds to its base."""

    @property
    def router(self) -> Path:
        return self.rootfs / "usr/bin/responses-router"

    @staticmethod
    @functools.cache
    def build() -> Image:
        """Runs the Dockerfile's steps in a folder that holds the Docker context alone; not optimised, which takes longer."""
        for old in (_CONTEXT, _ROOTFS):
            shutil.rmtree(old, ignore_errors=True)
        for line in (ROOT / ".dockerignore").read_text().splitlines():
            if line.startswith("!"):
                source, copy = ROOT / line[1:], _CONTEXT / line[1:]
                copy.parent.mkdir(parents=True, exist_ok=True)
                # Times are kept, so that Cargo sees what changed since the last time.
                shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
        steps = re.findall(r"(?:RUN|&&) deploy/docker/build.sh ([^\n&]+)", DOCKERFILE.read_text())
        if [step.split()[0] for step in steps] != ["dependencies", "router", "rootfs"]:
            raise ValueError(f"the Dockerfile's steps are {steps}")
        for step in steps:
            argv = ["deploy/docker/build.sh", *step.replace("/rootfs", str(_ROOTFS)).split()]
            environment = {"PROFILE": "dev", "CARGO_TARGET_DIR": str(TARGET)}
            done = run(["env", *(f"{name}={value}" for name, value in environment.items()), *argv], cwd=_CONTEXT)
            if done.returncode != 0:
                raise RuntimeError(f"build.sh {step}: {done.stdout}{done.stderr}")
        return Image(_ROOTFS)

    def setting(self, keyword: str) -> str:
        """The rest of the last line that begins with this keyword."""
        return re.findall(rf"^{keyword} (.+)$", DOCKERFILE.read_text(), re.MULTILINE)[-1]

    @property
    def user(self) -> int:
        user, group = self.setting("USER").split(":")
        if user != group:
            raise ValueError(f"user {user} and group {group}")
        return int(user)

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.setting("ENV").split())

    @property
    def entrypoint(self) -> list[str]:
        return list(json.loads(self.setting("ENTRYPOINT")))

    @property
    def command(self) -> list[str]:
        return list(json.loads(self.setting("CMD")))

    @property
    def health(self) -> list[str]:
        return list(json.loads(self.setting("HEALTHCHECK").partition(" CMD ")[2]))

    def with_base(self, folder: Path) -> Path:
        """A root folder as the container has it: the rootfs, and of the base the C library and the certificates.

        The libraries are this machine's, which runs the compiler; in the Dockerfile both stages are Debian 12.
        """
        shutil.copytree(self.rootfs, folder, dirs_exist_ok=True)
        libraries = re.findall(r"(/\S+) \(0x", run(["ldd", self.router]).stdout)
        for library in [*libraries, "/etc/ssl/certs/ca-certificates.crt"]:
            copy = folder / library.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            if Path(library).exists():
                shutil.copy2(library, copy)
        (folder / "etc/nsswitch.conf").write_text("hosts: files dns\n")
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        return folder

    def argv(self, root: Path, command: list[str], environment: dict[str, str]) -> list[str]:
        """The command that runs a program of the image as the container would."""
        user = f"--userspec={self.user}:{self.user}"
        settings = {"PATH": "/usr/bin"} | self.environment | environment
        return ["env", "-i", *(f"{name}={value}" for name, value in settings.items()), _CHROOT, user, str(root), *command]

    def run(self, root: Path, command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return run(list(self.argv(root, command, environment or {})), timeout=60)
