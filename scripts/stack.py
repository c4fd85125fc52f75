#!/usr/bin/env python3
"""Runs the router, Envoy and the echo backend: one of them, or all three, until told to stop.

Children run in sessions of their own, so that a Ctrl-C reaches this process alone and it can end them in order: the router
first, which drains while Envoy still carries its streams. No child outlives this process, however it ends.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import address
import demo
import demo_cluster
import envoy_config
import redis_cluster
from address import Address, Tcp

ROOT = Path(__file__).resolve().parent.parent

POLL_SECONDS = 0.1
START_SECONDS = 60
# Longer than the router's default drain time; a second signal cuts it short.
STOP_SECONDS = 60
# One request to end may arrive twice: through the process group, and from make, which passes SIGTERM on.
SAME_SIGNAL_SECONDS = 0.5
LOG_TAIL_LINES = 20


class Failed(Exception):
    """Ends the run with this message and exit code 1."""


class Stopped(Exception):
    """A signal asked for the end."""


@dataclass
class Part:
    name: str
    argv: Sequence[str | Path]
    ready: Callable[[], bool]
    env: dict[str, str] = field(default_factory=dict)
    log: Path | None = None
    """Where its output goes; standard output if there is none."""


class Stack:
    """The running parts. Ends them when left: the router, then the others, last started first."""

    def __init__(self) -> None:
        self._running: list[tuple[Part, subprocess.Popen[bytes]]] = []
        self._signals = 0
        self._last_signal = -SAME_SIGNAL_SECONDS
        self._followed: BinaryIO | None = None

    def __enter__(self) -> Stack:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for part, process in sorted(reversed(self._running), key=lambda running: running[0].name != ROUTER):
            self._end(part, process)

    def start(self, part: Part, *, follow: bool = False) -> None:
        """Starts a part; with `follow` its log also goes to standard output."""
        output = None
        if part.log:
            try:
                part.log.parent.mkdir(parents=True, exist_ok=True)
                output = part.log.open("wb")
                self._followed = part.log.open("rb") if follow else self._followed
            except OSError as error:
                raise Failed(f"cannot write the log of {part.name}: {error}") from error
        try:
            process = subprocess.Popen(
                [str(argument) for argument in part.argv],
                env=_clean_environment() | part.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            raise Failed(f"cannot start {part.name}: {error}") from error
        finally:
            if output:
                output.close()
        self._running.append((part, process))

    def start_and_wait(self, part: Part) -> None:
        say(f"starting {part.name} ...")
        self.start(part)
        self.wait(part)

    def kill_and_start(self, name: str) -> None:
        """Kills a part without warning and starts it again."""
        say(f"killing {name} (kill -9) and starting it again ...")
        part, process = self.take(name)
        process.kill()
        process.wait()
        self.start(part)
        self.wait(part)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The process of a running part; of several, that of the last one started."""
        return next(process for part, process in reversed(self._running) if part.name == name)

    def take(self, name: str) -> tuple[Part, subprocess.Popen[bytes]]:
        """Hands over a running part; the caller ends it."""
        taken = next(running for running in self._running if running[0].name == name)
        self._running.remove(taken)
        return taken

    def wait(self, part: Part) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not part.ready():
            if time.monotonic() > deadline:
                raise Failed(f"{part.name} was not up within {START_SECONDS} s{_tail(part)}")
            self.pause()

    def pause(self) -> None:
        """Waits a moment; raises when a signal came or a part has ended."""
        self._copy_followed()
        if self._signals:
            raise Stopped
        for part, process in self._running:
            if process.poll() is not None:
                self._copy_followed()
                raise Failed(f"{part.name} ended {_how(process.returncode)}{_tail(part)}")
        time.sleep(POLL_SECONDS)

    def _end(self, part: Part, process: subprocess.Popen[bytes]) -> None:
        seen = self._signals
        deadline = time.monotonic() + STOP_SECONDS
        if process.poll() is None:
            process.terminate()
        while process.poll() is None and time.monotonic() < deadline and self._signals == seen:
            self._copy_followed()
            time.sleep(POLL_SECONDS)
        if process.poll() is None:
            say(f"{part.name} did not end in time and is killed")
        # The whole session, for what the part may have started itself.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        self._copy_followed()

    def _on_signal(self, *_: object) -> None:
        now = time.monotonic()
        if now - self._last_signal >= SAME_SIGNAL_SECONDS:
            self._signals += 1
        self._last_signal = now

    def _copy_followed(self) -> None:
        if self._followed and (new := self._followed.read()):
            sys.stdout.buffer.write(new)
            sys.stdout.buffer.flush()


ROUTER = "the router"


def router(options: argparse.Namespace) -> Part:
    return Part(
        name=ROUTER,
        argv=[options.router_bin, "--config", options.config],
        env={"ROUTER_LISTEN": str(options.router), "ROUTER_ADMIN_LISTEN": str(options.router_admin)},
        log=options.router_log,
        ready=options.router.accepts,
    )


def envoy(options: argparse.Namespace, log: Path | None) -> Part:
    config = run_folder(options) / "envoy.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        envoy_config.render(
            listen=options.listen, admin=options.admin, upstream=options.upstream, router=options.router
        )
    )
    return Part(
        name="Envoy",
        argv=[
            *(options.venv / "bin" / "envoy", "-c", config, "--concurrency", str(options.concurrency)),
            # Hot restart claims a machine-wide id, which keeps a second Envoy from starting.
            "--disable-hot-restart",
            # The access log is to be seen while people watch it.
            *("--file-flush-interval-msec", "500"),
        ],
        log=log,
        ready=lambda: _answers(options.admin, "/ready"),
    )


def echo_backend(options: argparse.Namespace, log: Path | None) -> Part:
    return Part(
        name="llm-katan",
        argv=[
            *(options.venv / "bin" / "llm-katan", "--backend", "echo", "--model", demo.ECHO_MODEL),
            *("--host", options.upstream.host, "--port", str(options.upstream.port)),
            # It answers one request at a time unless told otherwise.
            *("--max-concurrent", "1024"),
            # Otherwise it keeps a file in the home folder, and every answer for its dashboard.
            *("--stats-file", "", "--disable-dashboard"),
        ],
        log=log,
        ready=lambda: _answers(options.upstream, "/health"),
    )


def use_disk(options: argparse.Namespace) -> None:
    """Has the router keep responses in a new file of this run."""
    folder = run_folder(options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "responses.redb").unlink(missing_ok=True)
    options.config = folder / "disk.yaml"
    options.config.write_text(_DISK_CONFIG.format(file=json.dumps(str(folder / "responses.redb"))))


_DISK_CONFIG = """\
# Written by scripts/stack.py.
server:
  listen: "${{ROUTER_LISTEN}}"
  admin_listen: "${{ROUTER_ADMIN_LISTEN}}"
response_api:
  store_backend: disk
  disk:
    path: {file}
"""


def redis_node(cluster: redis_cluster.Cluster, port: int) -> Part:
    cluster.node_folder(port).mkdir(parents=True, exist_ok=True)
    return Part(
        name=f"Redis {port}",
        argv=cluster.node_argv(port),
        log=cluster.node_folder(port) / "redis.log",
        ready=Tcp(redis_cluster.HOST, port).accepts,
    )


def run_folder(options: argparse.Namespace) -> Path:
    """Where a run keeps its files; several runs at a time differ in the port they serve."""
    return ROOT / ".run" / str(options.listen.port)


def run_router(options: argparse.Namespace) -> None:
    _claim({"ROUTER": options.router, "ROUTER_ADMIN": options.router_admin})
    _run_one(router(options), follow=True)


def run_envoy(options: argparse.Namespace) -> None:
    _claim({"LISTEN": options.listen, "ADMIN": options.admin})
    _run_one(envoy(options, log=None))


def run_upstream(options: argparse.Namespace) -> None:
    _claim({"PORT": options.upstream})
    _run_one(echo_backend(options, log=None))


def run_all(options: argparse.Namespace) -> None:
    with Stack() as stack:
        _start_all(stack, options)
        say(_banner(options))
        while True:
            stack.pause()


def run_demo(options: argparse.Namespace) -> None:
    if options.store == "disk":
        use_disk(options)
    with Stack() as stack:
        _start_all(stack, options)
        try:
            kept = demo.walk(_url(options), _model(options), stack.pause)
            if options.store == "disk":
                demo.say("\n=== Kill the router")
                stack.kill_and_start(ROUTER)
                demo.walk_after_restart(_url(options), _model(options), kept, stack.pause)
        except demo.Unexpected as error:
            raise Failed(f"{error}; logs: {_logs(options)}") from error


def run_demo_cluster(options: argparse.Namespace) -> None:
    redis_cluster.require_redis()
    folder = run_folder(options)
    # New at each run: what an earlier one left would not form a new cluster.
    shutil.rmtree(folder / "redis", ignore_errors=True)
    cluster = redis_cluster.Cluster(folder / "redis", redis_cluster.free_base())
    options.config = folder / "redis-cluster.yaml"
    options.config.parent.mkdir(parents=True, exist_ok=True)
    options.config.write_text(demo_cluster.router_config(cluster))
    with Stack() as stack:
        for port in cluster.ports:
            stack.start_and_wait(redis_node(cluster, port))
        say("forming the cluster ...")
        cluster.form(stack.pause)
        _start_all(stack, options)
        try:
            demo_cluster.walk(_url(options), _model(options), cluster, options.router_log, stack.pause)
        except demo.Unexpected as error:
            raise Failed(f"{error}; logs: {_logs(options)}") from error


def _run_one(part: Part, *, follow: bool = False) -> None:
    with Stack() as stack:
        stack.start(part, follow=follow)
        while True:
            stack.pause()


def _start_all(stack: Stack, options: argparse.Namespace) -> None:
    own_upstream = {"PORT": options.upstream} if options.echo else {}
    envoys = {"LISTEN": options.listen, "ADMIN": options.admin}
    _claim(envoys | {"ROUTER": options.router, "ROUTER_ADMIN": options.router_admin} | own_upstream)
    logs = run_folder(options)
    if options.echo:
        stack.start_and_wait(echo_backend(options, log=logs / "upstream.log"))
    elif not options.upstream.accepts():
        say(f"nothing answers at UPSTREAM={options.upstream} yet; requests will fail until it does")
    stack.start_and_wait(router(options))
    stack.start_and_wait(envoy(options, log=logs / "envoy.log"))


def _claim(wanted: dict[str, Address]) -> None:
    if problems := address.unavailable(wanted):
        raise Failed("\n".join(problems))


def _banner(options: argparse.Namespace) -> str:
    url = _url(options)
    model = _model(options)
    create = demo.create(url, model, "Say hello.")
    stream = demo.create(url, model, "Count to three.", stream=True)
    behind = "llm-katan's echo backend" if options.echo else str(options.upstream)
    return f"""
The Responses API is up at {url}, in front of {behind}. Try:

{create}

{stream}

{demo.retrieve(url, "resp_...")}

Logs: {_logs(options)}
Ctrl-C ends it."""


def _logs(options: argparse.Namespace) -> str:
    folder = run_folder(options)
    files = [options.router_log, folder / "envoy.log", *([folder / "upstream.log"] if options.echo else [])]
    return " ".join(os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file) for file in files)


def _url(options: argparse.Namespace) -> str:
    return f"http://{options.listen.dialled()}/v1/responses"


def _model(options: argparse.Namespace) -> str:
    return demo.ECHO_MODEL if options.echo else options.model or demo.first_model(options.upstream)


def _answers(server: Tcp, path: str) -> bool:
    where = server.dialled()
    connection = http.client.HTTPConnection(where.host, where.port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _clean_environment() -> dict[str, str]:
    # llm-katan lets LLM_KATAN_PORT and the like win over its command line.
    return {name: value for name, value in os.environ.items() if not name.startswith("LLM_KATAN_")}


def _die_with_parent() -> None:
    """Has Linux kill the child if this process is killed and cannot end it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        _LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)


# Loaded before any fork: loading a library in the child could meet a lock held by the parent.
_LIBC = ctypes.CDLL(None)


def _how(returncode: int) -> str:
    return f"by signal {-returncode}" if returncode < 0 else f"with exit code {returncode}"


def _tail(part: Part) -> str:
    if not part.log:
        return ""
    lines = part.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join(["; the end of its log:", *(f"  | {line}" for line in lines)]) if lines else ""


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=COMMANDS)
    envoy_config.add_arguments(parser)
    parser.add_argument(
        "--router-admin",
        type=address.ip_port,
        default="127.0.0.1:9190",
        help="where the router serves health and metrics",
    )
    parser.add_argument("--echo", action="store_true", help="start the echo backend as the upstream")
    parser.add_argument("--model", help="model the examples name; by default the first that the upstream lists")
    parser.add_argument("--config", type=Path, default=ROOT / "config/config.yaml", help="the router's config file")
    parser.add_argument("--store", choices=("", "disk"), default="", help="a store for the demo, in place of the config's")
    parser.add_argument("--router-bin", type=Path, default=ROOT / "target/release/responses-router")
    parser.add_argument("--router-log", type=Path, default=Path("/tmp/router.log"))
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--concurrency", type=int, default=2, help="Envoy's worker threads")
    options = parser.parse_args()
    try:
        COMMANDS[options.what](options)
    except Stopped:
        return 0
    except (Failed, redis_cluster.ClusterError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


COMMANDS = {
    "router": run_router,
    "envoy": run_envoy,
    "upstream": run_upstream,
    "run": run_all,
    "demo": run_demo,
    "demo-cluster": run_demo_cluster,
}

if __name__ == "__main__":
    sys.exit(main())
