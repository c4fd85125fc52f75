#!/usr/bin/env python3
"""Measures what docs/sizing.md says: memory of the router idle, per live stream and per stored response; bytes of a turn.

`make sizing` runs it: the release build of the router, a real Envoy, a real redis-server, and a backend of its own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import envoy_config
from address import Tcp
from stack import Failed, Part, Stack, say

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
KIB = 1024
# Prose, of which each answer has another part: what repeats itself would compress better than conversations do.
PROSE = " ".join("".join(letter if letter.isascii() else " " for letter in (ROOT / "README.md").read_text()).split())
LAST_WORDS = "that was all"
RANDOM = random.Random(1)


def text(size: int) -> str:
    start = RANDOM.randrange(len(PROSE) - size)
    return PROSE[start : start + size]


def chunk(content: str, finish_reason: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}]
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


class Backend(ThreadingHTTPServer):
    """Answers with 2 KiB; a stream is held open after its first bytes, and again after a longer text."""

    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, text_kib: int) -> None:
        super().__init__((HOST, 0), Handler)
        self.text_kib = text_kib
        self.text, self.end = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> Tcp:
        return Tcp(HOST, self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Backend

    def do_POST(self) -> None:
        length = self.headers.get("content-length")
        body = json.loads(self.rfile.read(int(length)) if length else self._chunked())
        if not body.get("stream"):
            message = {"role": "assistant", "content": text(2 * KIB)}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            answer = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices,
                                 "usage": usage}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            return
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(chunk("Once"))
        self.server.text.wait()
        for _ in range(self.server.text_kib):
            self.wfile.write(chunk(text(KIB)))
        self.wfile.write(chunk(LAST_WORDS))
        self.server.end.wait()
        self.wfile.write(chunk("", "stop") + b"data: [DONE]\n\n")

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_: Any) -> None:
        pass


class Run:
    """A router with one store behind an Envoy."""

    def __init__(self, stack: Stack, options: argparse.Namespace, folder: Path, backend: Backend, store: dict[str, Any]) -> None:
        self.listen, self.router, self.admin = (Tcp(HOST, free_port()) for _ in range(3))
        folder.mkdir()
        config = {
            "server": {"listen": str(self.router), "admin_listen": None},
            "response_api": {"max_responses": 1000000, "max_memory_bytes": 1 << 34} | store,
        }
        (folder / "router.yaml").write_text(json.dumps(config))
        envoy = envoy_config.render(listen=self.listen, admin=self.admin, upstream=backend.address, router=self.router)
        (folder / "envoy.yaml").write_text(envoy)
        router = [options.router_bin, "--config", folder / "router.yaml"]
        stack.start_and_wait(Part("the router", router, self.router.accepts, log=folder / "router.log"))
        self._process = stack.process("the router")
        envoy_argv = [options.venv / "bin/envoy", "-c", folder / "envoy.yaml", "--concurrency", "1", "--disable-hot-restart"]
        stack.start_and_wait(Part("Envoy", envoy_argv, self.listen.accepts, log=folder / "envoy.log"))
        self._client = http.client.HTTPConnection(HOST, self.listen.port)

    def resident(self) -> int:
        """The router's resident memory in bytes, without the pages of its file."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:"))) * KIB

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def turn(self, parent: str | None = None) -> str:
        body = {"model": "m", "input": text(2 * KIB)} | ({"previous_response_id": parent} if parent else {})
        self._client.request("POST", "/v1/responses", json.dumps(body), {"content-type": "application/json"})
        answer = json.load(self._client.getresponse())
        if answer.get("status") != "completed":
            raise Failed(f"no response: {answer}")
        return str(answer["id"])

    def chain(self, turns: int) -> list[str]:
        ids: list[str] = []
        for _ in range(turns):
            ids.append(self.turn(ids[-1] if ids else None))
        return ids

    def stream(self) -> socket.socket:
        """A stream of which the first event has come."""
        body = json.dumps({"model": "m", "input": "Hi", "stream": True, "store": False}).encode()
        client = socket.create_connection((HOST, self.listen.port))
        head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        read_until(client, b"Once")
        return client


def read_until(client: socket.socket, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        new = client.recv(1 << 16)
        if not new:
            raise Failed(f"the stream ended: {seen[-200:]!r}")
        seen = seen[-len(wanted) :] + new


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def redis_cli(port: int, *words: str) -> str:
    done = subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def memory(stack: Stack, options: argparse.Namespace, folder: Path, backend: Backend) -> None:
    run = Run(stack, options, folder / "memory", backend, {})
    run.turn()
    idle, files = run.resident(), run.files()
    say(f"idle router: {idle / KIB / KIB:.1f} MiB, {files} file descriptors")
    clients = [run.stream() for _ in range(options.streams)]
    live = run.resident()
    each = (live - idle) / KIB / len(clients)
    say(f"{len(clients)} live streams: {each:.1f} KiB each, {run.files() - files} file descriptors more")
    backend.text.set()
    for client in clients:
        read_until(client, LAST_WORDS.encode())
    more = run.resident() - live
    say(f"{options.text_kib} KiB of text in each: {more / KIB / len(clients):.1f} KiB more each")
    backend.end.set()
    for client in clients:
        read_until(client, b"event: response.completed")
        client.close()


def memory_store(stack: Stack, options: argparse.Namespace, folder: Path, backend: Backend) -> None:
    run = Run(stack, options, folder / "memory-store", backend, {})
    # What is allocated once comes first.
    for _ in range(20):
        run.turn()
    before = run.resident()
    for _ in range(options.turns):
        run.turn()
    say(f"memory store: {(run.resident() - before) / KIB / options.turns:.1f} KiB for each turn of 2 KiB + 2 KiB")


def redis(stack: Stack, options: argparse.Namespace, folder: Path, backend: Backend, compression: str) -> None:
    port = free_port()
    argv = ["redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(folder)]
    stack.start_and_wait(Part(f"Redis {port}", argv, Tcp(HOST, port).accepts, log=folder / f"redis-{port}.log"))
    store = {"store_backend": "redis", "redis": {"address": f"{HOST}:{port}", "compression": compression}}
    run = Run(stack, options, folder / f"redis-{compression}", backend, store)
    ids = run.chain(50)
    for depth in (1, 10, 50):
        usage = redis_cli(port, "MEMORY", "USAGE", f"sr:response:{ids[depth - 1]}")
        length = redis_cli(port, "STRLEN", f"sr:response:{ids[depth - 1]}")
        say(f"Redis, compression {compression}, turn {depth}: MEMORY USAGE {usage}, STRLEN {length}")


def disk(stack: Stack, options: argparse.Namespace, folder: Path, backend: Backend) -> None:
    file = folder / "responses.redb"
    run = Run(stack, options, folder / "disk", backend, {"store_backend": "disk", "disk": {"path": str(file)}})
    for _ in range(options.turns):
        run.turn()
    say(f"disk store: {file.stat().st_size / KIB / options.turns:.1f} KiB of file for each of {options.turns} turns")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--router-bin", type=Path, default=ROOT / "target/release/responses-router")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--streams", type=int, default=500, help="live streams at once")
    parser.add_argument("--text-kib", type=int, default=16, help="the text that each of them then gets")
    parser.add_argument("--turns", type=int, default=1000, help="responses in the memory store and in the disk store")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="responses-router-sizing-") as folder, Stack() as stack:
            backend = Backend(options.text_kib)
            memory(stack, options, Path(folder), backend)
            memory_store(stack, options, Path(folder), backend)
            for compression in ("none", "zstd"):
                redis(stack, options, Path(folder), backend, compression)
            disk(stack, options, Path(folder), backend)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
