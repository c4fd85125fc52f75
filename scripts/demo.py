"""The walk of `make demo`: the Responses API by curl, each answer shown and checked."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from address import Tcp

ECHO_MODEL = "echo"

# llm-katan and others refuse requests without a key, whatever it is. The shell puts a real one in, so none is printed.
_AUTHORIZATION = '-H "authorization: Bearer ${OPENAI_API_KEY:-unused}"'
_MAX_SECONDS = 300
_POLL_SECONDS = 0.1
_SHOWN = ("id", "object", "status", "model", "previous_response_id", "output_text", "usage", "deleted", "error")
_RESPONSE_ID = re.compile(r"resp_[0-9a-f]{32}")


class Unexpected(Exception):
    """An answer was not what it has to be."""


@dataclass
class Answer:
    status: int
    text: str

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.text)
        except ValueError as error:
            raise Unexpected(f"the answer is not JSON: {self.text!r}") from error
        if not isinstance(value, dict):
            raise Unexpected(f"the answer is not a JSON object: {self.text!r}")
        return value

    def events(self) -> list[dict[str, Any]]:
        """The events of a stream; the wire form is one `event:` and one `data:` line each."""
        data = re.findall(r"^data: (\{.*)$", self.text, re.MULTILINE)
        return [json.loads(event) for event in data]


def create(url: str, model: str, text: str, **more: Any) -> str:
    """The curl command that makes a response."""
    body = shlex.quote(json.dumps({"model": model, "input": text} | more))
    flags = "-sSN" if more.get("stream") else "-sS"
    return f"curl {flags} {url} -H 'content-type: application/json' \\\n  {_AUTHORIZATION} \\\n  -d {body}"


def retrieve(url: str, response_id: str) -> str:
    return f"curl -sS {url}/{response_id}"


def delete(url: str, response_id: str) -> str:
    return f"curl -sS -X DELETE {url}/{response_id}"


def first_model(upstream: Tcp) -> str:
    """The first model the upstream lists; a placeholder if it cannot be asked."""
    connection = http.client.HTTPConnection(upstream.host, upstream.port, timeout=5)
    try:
        key = os.environ.get("OPENAI_API_KEY", "unused")
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
        return str(json.load(connection.getresponse())["data"][0]["id"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return "name-of-your-model"
    finally:
        connection.close()


def walk(url: str, model: str, pause: Callable[[], None]) -> dict[str, Any]:
    """Runs every step against `url`; raises `Unexpected` at the first wrong answer. `pause` is called while one runs.

    Returns a response that is still stored at the end.
    """

    def step(headline: str, command: str) -> Answer:
        say(f"\n=== {headline}\n$ {command}")
        return run(command, pause)

    created = step("Create a response", create(url, model, "My name is Ada. Say hello."))
    first = show(created)
    check("it completed, with text and an id of ours", is_completed(created, first))

    retrieved = step("Get it back", retrieve(url, first["id"]))
    check("it is the same, field by field", retrieved.status == 200 and show(retrieved) == first)

    chained = step(
        "Take a second turn, by previous_response_id alone",
        create(url, model, "What is my name?", previous_response_id=first["id"]),
    )
    second = show(chained)
    follows = is_completed(chained, second) and second.get("previous_response_id") == first["id"]
    check("it completed and names its parent", follows)
    if model == ECHO_MODEL:
        # The echo backend says how many messages it was sent: two questions and the answer between them.
        check("the backend was sent the whole conversation", "messages=3" in second["output_text"])

    streamed = step("Stream a turn", create(url, model, "Count to three.", stream=True))
    check("it is a stream of events that completes", _is_stream(streamed, _show_events(streamed)))

    deleted = step("Delete the first response", delete(url, first["id"]))
    check("it says so", deleted.status == 200 and show(deleted).get("deleted") is True)

    gone = step("Get it again", retrieve(url, first["id"]))
    error = show(gone).get("error") or {}
    check("it is gone", gone.status == 404 and error.get("type") == "invalid_request_error")

    say("\nEverything answered as it should.")
    return streamed.events()[-1]["response"]


def walk_after_restart(url: str, model: str, kept: dict[str, Any], pause: Callable[[], None]) -> None:
    """Shows that a response of before is still there and can be continued."""
    command = retrieve(url, kept["id"])
    say(f"\n=== Get a response of before\n$ {command}")
    retrieved = run(command, pause)
    check("it is the same, field by field", retrieved.status == 200 and show(retrieved) == kept)
    command = create(url, model, "And on to six.", previous_response_id=kept["id"])
    say(f"\n=== Continue it\n$ {command}")
    continued = run(command, pause)
    response = show(continued)
    follows = is_completed(continued, response) and response.get("previous_response_id") == kept["id"]
    check("it completed and names its parent", follows)
    say("\nThe disk store kept everything.")


def run(command: str, pause: Callable[[], None]) -> Answer:
    """Runs a curl command; raises `Unexpected` when it fails. `pause` is called while it runs."""
    # The status goes after the body, on a line of its own. Nothing here goes through a proxy.
    traced = f"{command} --noproxy '*' --max-time {_MAX_SECONDS} -w '\\n%{{http_code}}'"
    with subprocess.Popen(["sh", "-c", traced], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as curl:
        try:
            while True:
                try:
                    output, errors = curl.communicate(timeout=_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    pause()
        except BaseException:
            curl.kill()
            raise
    text, _, status = output.rpartition("\n")
    if curl.returncode != 0:
        raise Unexpected(f"curl failed: {errors.strip()}; received: {text!r}")
    return Answer(int(status), text)


def is_completed(answer: Answer, response: dict[str, Any]) -> bool:
    """Whether an answer is a whole response with text and an id of ours."""
    return (
        answer.status == 200
        and response.get("object") == "response"
        and _RESPONSE_ID.fullmatch(response.get("id", "")) is not None
        and response.get("status") == "completed"
        and bool(response.get("output_text"))
    )


def _is_stream(answer: Answer, events: list[dict[str, Any]]) -> bool:
    if answer.status != 200 or not events:
        return False
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    last = events[-1]
    return (
        events[0]["type"] == "response.created"
        and [event.get("sequence_number") for event in events] == list(range(len(events)))
        and last["type"] == "response.completed"
        and bool(deltas)
        and last["response"]["output_text"] == deltas
    )


def show(answer: Answer) -> dict[str, Any]:
    """Prints the parts of an answer that matter; returns all of it."""
    value = answer.json()
    shown = {key: value[key] for key in _SHOWN if key in value}
    say(f"HTTP {answer.status}\n{json.dumps(shown, indent=2, ensure_ascii=False)}")
    return value


def _show_events(answer: Answer) -> list[dict[str, Any]]:
    events = answer.events()
    if not events:
        say(f"HTTP {answer.status}\n{answer.text}")
        return events
    say(f"HTTP {answer.status}, {len(events)} events")
    for kind, group in groupby(events, key=lambda event: event["type"]):
        same = list(group)
        text = "".join(event["delta"] for event in same if isinstance(event.get("delta"), str))
        say(f"  {kind}{f' x{len(same)}' if len(same) > 1 else ''}{f'  {text!r}' if text else ''}")
    return events


def check(claim: str, holds: bool) -> None:
    """Prints a claim that holds; raises `Unexpected` for one that does not."""
    if not holds:
        raise Unexpected(f"not so: {claim}")
    say(f"ok: {claim}")


def say(text: str) -> None:
    print(text, flush=True)
