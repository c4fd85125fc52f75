"""Streams, read by the SDK's iterator and by its helper, which rebuilds the response from the events."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any

import openai

import sdk


class Streams(unittest.TestCase):
    def setUp(self) -> None:
        self.client = self.enterContext(sdk.client())

    def follow(self, model: str, **options: Any) -> tuple[list[Any], Any]:
        """Every event of a stream, and the response that the helper made of them."""
        with self.client.responses.stream(model=model, input="Hi", **options) as stream:
            events = list(stream)
            return events, stream.get_final_response()

    def test_the_helper_rebuilds_the_response(self) -> None:
        events, response = self.follow("sdk-stream")
        self.assertEqual(response.output_text, "Hello to all of you.")
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        self.assertEqual("".join(deltas), response.output_text)
        self.assertEqual(response.usage.total_tokens, 10)
        stored = self.client.responses.retrieve(response.id)
        self.assertEqual(stored.output_text, response.output_text)

    def test_events_are_typed_and_numbered(self) -> None:
        events = list(self.client.responses.create(model="sdk-stream", input="Hi", stream=True))
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        kinds = [event.type.removeprefix("response.") for event in events]
        self.assertEqual(kinds[:4], ["created", "in_progress", "output_item.added", "content_part.added"])
        self.assertEqual(kinds[-4:], ["output_text.done", "content_part.done", "output_item.done", "completed"])
        self.assertEqual(events[-1].response.output_text, "Hello to all of you.")

    def test_reasoning_comes_first(self) -> None:
        events, response = self.follow("sdk-stream-reasoning")
        self.assertEqual([item.type for item in response.output], ["reasoning", "message"])
        self.assertEqual(response.output[0].content[0].text, "Let me think.")
        deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
        self.assertEqual("".join(deltas), "Let me think.")

    def test_reasoning_is_a_summary_when_one_is_asked_for(self) -> None:
        events, response = self.follow("sdk-stream-reasoning", reasoning={"summary": "auto"})
        self.assertEqual(response.output[0].summary[0].text, "Let me think.")
        deltas = [event for event in events if event.type == "response.reasoning_summary_text.delta"]
        self.assertEqual("".join(event.delta for event in deltas), "Let me think.")
        self.assertEqual({event.summary_index for event in deltas}, {0})

    def test_a_refusal_is_a_refusal(self) -> None:
        events, response = self.follow("sdk-stream-refusal")
        (part,) = response.output[0].content
        self.assertEqual((part.type, part.refusal), ("refusal", "I will not."))
        self.assertEqual([e.refusal for e in events if e.type == "response.refusal.done"], ["I will not."])

    def test_a_length_limit_leaves_the_response_incomplete(self) -> None:
        events = list(self.client.responses.create(model="sdk-stream-length", input="Hi", stream=True))
        last = events[-1]
        self.assertEqual((last.type, last.response.status), ("response.incomplete", "incomplete"))
        self.assertEqual(last.response.incomplete_details.reason, "max_output_tokens")

    def test_a_failure_is_the_last_event(self) -> None:
        events = list(self.client.responses.create(model="sdk-stream-failed", input="Hi", stream=True))
        last = events[-1]
        self.assertEqual((last.type, last.response.status), ("response.failed", "failed"))
        self.assertEqual((last.response.error.code, last.response.error.message), ("server_error", "out of memory"))
        self.assertEqual(last.response.output_text, "Partial")

    def test_a_stream_may_be_left_early(self) -> None:
        with self.client.responses.create(model="sdk-stream", input="Hi", stream=True) as stream:
            first = next(iter(stream))
        self.assertEqual(first.type, "response.created")
        # The client is as good as before.
        self.assertEqual(self.follow("sdk-stream")[1].status, "completed")

    def test_the_asynchronous_client_streams_too(self) -> None:
        async def follow() -> str:
            async with sdk.async_client() as client:
                async with client.responses.stream(model="sdk-stream", input="Hi") as stream:
                    text = "".join([e.delta async for e in stream if e.type == "response.output_text.delta"])
                    final = await stream.get_final_response()
            self.assertEqual(final.output_text, text)
            return text

        self.assertEqual(asyncio.run(follow()), "Hello to all of you.")

    def test_an_unknown_parent_is_an_error_before_the_stream(self) -> None:
        with self.assertRaises(openai.BadRequestError):
            self.client.responses.create(model="sdk-stream", input="Hi", stream=True, previous_response_id="resp_1")


if __name__ == "__main__":
    sdk.main()
