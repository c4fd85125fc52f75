"""Function calls, answered in the next turn by previous_response_id."""

from __future__ import annotations

import json
import unittest
from typing import Any

import openai

import sdk
from weather import TOOL


def outputs_for(response: Any) -> list[dict[str, str]]:
    return [
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": f"sun in {json.loads(call.arguments)['city']}",
        }
        for call in response.output
    ]


class Tools(unittest.TestCase):
    def setUp(self) -> None:
        self.client = self.enterContext(sdk.client())

    def test_calls_are_answered_in_the_next_turn(self) -> None:
        first = self.client.responses.create(model="sdk-tools", input="Weather?", tools=[TOOL])
        self.assertEqual([item.name for item in first.output], ["weather", "weather"])
        self.assertEqual(first.tools[0].name, "weather")
        self.assertEqual(first.output_text, "")
        second = self.client.responses.create(
            model="sdk-tools", input=outputs_for(first), previous_response_id=first.id, tools=[TOOL]
        )
        self.assertEqual(second.output_text, "sun in Oslo and sun in Rome")
        self.assertEqual(second.previous_response_id, first.id)

    def test_streamed_calls_are_answered_in_the_next_turn(self) -> None:
        with self.client.responses.stream(model="sdk-tools", input="Weather?", tools=[TOOL]) as stream:
            done = [event for event in stream if event.type == "response.function_call_arguments.done"]
            first = stream.get_final_response()
        self.assertEqual([event.name for event in done], ["weather", "weather"])
        with self.client.responses.stream(
            model="sdk-tools", input=outputs_for(first), previous_response_id=first.id, tools=[TOOL]
        ) as stream:
            second = stream.get_final_response()
        self.assertEqual(second.output_text, "sun in Oslo and sun in Rome")

    def test_arguments_are_parsed(self) -> None:
        response = self.client.responses.parse(model="sdk-tools", input="Weather?", tools=[TOOL])
        self.assertEqual([call.parsed_arguments for call in response.output], [{"city": "Oslo"}, {"city": "Rome"}])

    def test_a_call_without_output_is_refused(self) -> None:
        first = self.client.responses.create(model="sdk-tools", input="Weather?", tools=[TOOL])
        with self.assertRaisesRegex(openai.BadRequestError, "No tool output found for function call call_"):
            self.client.responses.create(model="sdk-tools", input="Never mind.", previous_response_id=first.id)
        with self.assertRaisesRegex(openai.BadRequestError, "No tool call found for function call output"):
            self.client.responses.create(model="sdk-tools", input=outputs_for(first))


if __name__ == "__main__":
    sdk.main()
