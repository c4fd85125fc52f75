"""Responses that are not streamed: created, parsed, retrieved, listed, deleted."""

from __future__ import annotations

import unittest

import openai
from pydantic import BaseModel

import sdk


class City(BaseModel):
    city: str
    inhabitants: int


class Responses(unittest.TestCase):
    def setUp(self) -> None:
        self.client = self.enterContext(sdk.client())

    def test_a_response_has_what_the_sdk_promises(self) -> None:
        response = self.client.responses.create(
            model="sdk-create",
            input="Hi",
            instructions="Be brief.",
            temperature=0.5,
            max_output_tokens=50,
            metadata={"topic": "greeting"},
        )
        self.assertEqual(response.output_text, "2: Hi")
        self.assertEqual((response.status, response.model, response.object), ("completed", "sdk-create", "response"))
        self.assertEqual((response.instructions, response.temperature), ("Be brief.", 0.5))
        self.assertEqual(response.metadata, {"topic": "greeting"})
        self.assertEqual(response.usage.total_tokens, 10)
        self.assertEqual(response.usage.input_tokens_details.cached_tokens, 0)
        self.assertEqual(response.usage.input_tokens_details.cache_write_tokens, 0)
        self.assertEqual(response.usage.output_tokens_details.reasoning_tokens, 0)
        self.assertIsNone(response.error)
        (message,) = response.output
        self.assertEqual((message.type, message.role, message.status), ("message", "assistant", "completed"))
        (part,) = message.content
        self.assertEqual((part.type, part.text, part.annotations, part.logprobs), ("output_text", "2: Hi", [], []))

    def test_a_retrieved_response_is_the_created_one(self) -> None:
        created = self.client.responses.create(model="sdk-create", input="Hi")
        self.assertEqual(self.client.responses.retrieve(created.id), created)

    def test_a_deleted_response_is_not_found(self) -> None:
        created = self.client.responses.create(model="sdk-create", input="Hi")
        self.client.responses.delete(created.id)
        for use in (
            self.client.responses.retrieve,
            self.client.responses.delete,
            self.client.responses.input_items.list,
        ):
            with self.assertRaises(openai.NotFoundError):
                use(created.id)

    def test_input_items_are_paged_through(self) -> None:
        words = [f"word{number}" for number in range(7)]
        created = self.client.responses.create(
            model="sdk-create",
            input=[{"role": "user", "content": word} for word in words],
        )
        for order, expected in (("asc", words), ("desc", words[::-1])):
            items = self.client.responses.input_items.list(created.id, limit=3, order=order)
            self.assertTrue(items.has_next_page())
            # Iterating fetches the other pages.
            self.assertEqual([item.content[0].text for item in items], expected)
        ids = [item.id for item in self.client.responses.input_items.list(created.id)]
        self.assertEqual(len(set(ids)), 7)
        self.assertEqual(ids, [item.id for item in self.client.responses.input_items.list(created.id)])

    def test_an_answer_is_parsed_into_a_model(self) -> None:
        response = self.client.responses.parse(model="sdk-parse", input="Where?", text_format=City)
        self.assertEqual(response.output_parsed, City(city="Köln", inhabitants=1090000))

    def test_a_streamed_answer_is_parsed_into_a_model(self) -> None:
        with self.client.responses.stream(model="sdk-parse-stream", input="Where?", text_format=City) as stream:
            response = stream.get_final_response()
        self.assertEqual(response.output_parsed, City(city="Köln", inhabitants=1090000))

    def test_a_raw_answer_shows_its_headers(self) -> None:
        raw = self.client.responses.with_raw_response.create(model="sdk-create", input="Hi")
        self.assertEqual(raw.headers["content-type"], "application/json")
        self.assertEqual(raw.parse().output_text, "1: Hi")


if __name__ == "__main__":
    sdk.main()
