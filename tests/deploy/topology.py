"""The parts of a deployment as processes: each started as its manifest says, in a namespace that has its names and ports."""

from __future__ import annotations

import http.client
import shutil
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path

from image import Image
from namespace import Namespace
from sources import COMPOSE, VENV_BIN, Object, documents, envoy_binary, run

import demo
import stack
from address import Tcp
from stack import Part, Stack

API = Tcp("127.0.0.1", 8801)
ROUTER_ADMIN = Tcp("127.0.0.1", 9190)
ENVOY_ADMIN = Tcp("127.0.0.1", 19000)
_ENVOY = Path("/run/envoy")
_PATIENCE_SECONDS = 60


class Topology(unittest.TestCase):
    """A test that runs one. Subclasses say which names its network has."""

    hosts: dict[str, str] = {}
    networks: list[str] = []

    def setUp(self) -> None:
        self.image = Image.build()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="responses-router-deploy-")))
        # The containers' users have to reach what lies in it.
        self.folder.chmod(0o755)
        self.namespace = self.enterContext(Namespace(self.hosts, self.networks))
        self.namespace.bind(envoy_binary(), _ENVOY)
        self.root = self.image.with_base(self.folder / "root")
        # Which the container engine mounts.
        shutil.copy("/etc/hosts", self.root / "etc/hosts")
        self.running = self.enterContext(Stack())

    def part(self, name: str, argv: list[str], ready: Callable[[], bool], env: dict[str, str] | None = None) -> Part:
        return Part(name=name, argv=argv, ready=ready, env=env or {}, log=self.folder / f"{name}.log")

    def start(self, part: Part) -> None:
        self.running.start(part)
        self.running.wait(part)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def tail(self, name: str) -> str:
        return "\n".join(line[:500] for line in self.log(name).splitlines()[-10:])

    def until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not done():
            self.assertLess(time.monotonic(), deadline, what)
            self.running.pause()

    def router(self, config: str, command: list[str], environment: dict[str, str] | None = None) -> Part:
        """The image's container, with a config file mounted where the command looks for it."""
        _, _, file = command[-1].partition("/etc/responses-router/")
        (self.root / "etc/responses-router" / file).write_text(config)
        argv = self.image.argv(self.root, [*self.image.entrypoint, *command], environment or {})
        return self.part("router", argv, lambda: status(ROUTER_ADMIN, "/readyz") == 200)

    def envoy(self, config: str, arguments: list[str], user: int | None = None) -> Part:
        """Envoy's container; what is mounted as its config file is `config`."""
        file = self.folder / "envoy.yaml"
        file.write_text(config)
        words = [str(file) if word == "/etc/envoy/envoy.yaml" else word for word in arguments]
        change = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        return self.part("envoy", [*change, str(_ENVOY), *words], lambda: status(ENVOY_ADMIN, "/ready") == 200)

    def echo(self, arguments: list[str], port: int) -> Part:
        where = Tcp("127.0.0.1", port)
        return self.part("llm-katan", [str(VENV_BIN / "llm-katan"), *arguments], lambda: status(where, "/health") == 200)

    def redis_cluster(self, *more: str) -> None:
        """The six nodes of the compose file and the job that makes a cluster of them; `more` goes to each command."""
        services = compose_services()
        for name in (f"redis-{number}" for number in range(1, 7)):
            service, address = services[name], compose_address(services[name])
            folder = self.folder / name
            folder.mkdir()
            # All share one machine here, so each has to keep to its own address.
            argv = [*service["command"], "--bind", address, "--bind-source-addr", address, "--dir", str(folder), *more]
            self.start(self.part(name, argv, Tcp(address, 6379).accepts))
        password = {"REDISCLI_AUTH": more[more.index("--requirepass") + 1]} if "--requirepass" in more else {}
        argv = [word.replace("$$", "$") for word in services["redis-cluster"]["command"]]
        done = run(["env", *(f"{name}={value}" for name, value in password.items()), *argv], timeout=_PATIENCE_SECONDS)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def walk(self, model: str = "echo") -> Object:
        """Create, retrieve, chain, stream, delete; a response that is still stored."""
        shown, demo.say = demo.say, lambda text: None
        try:
            return demo.walk(f"http://{API}/v1/responses", model, self.running.pause)
        except demo.Unexpected as error:
            self.fail(f"{error}\n{self.tail('router')}\n{self.tail('envoy')}")
        finally:
            demo.say = shown


def compose_services() -> Object:
    (compose,) = documents(COMPOSE / "docker-compose.yaml")
    services: Object = compose["services"]
    return services


def compose_address(service: Object) -> str:
    (network,) = service["networks"].values()
    return str(network["ipv4_address"])


def status(server: Tcp, path: str) -> int:
    """The status of a GET; 0 when nothing answers."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
