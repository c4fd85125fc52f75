"""The official Python SDK, as its users write it; `sdk_*.py` look at its details."""

from __future__ import annotations

import json
from typing import Any

import openai
from pydantic import BaseModel

import scene
from weather import TOOL


class City(BaseModel):
    city: str
    inhabitants: int


responses = scene.client().responses


async def create(**request: Any) -> Any:
    return await responses.create(**{"model": scene.MODEL} | request)


async def follow(model: str = scene.MODEL, **request: Any) -> tuple[list[Any], Any]:
    """The events of a stream, and the response that the SDK makes of them."""
    async with responses.stream(model=model, **request) as stream:
        events = [event async for event in stream]
        return events, await stream.get_final_response()


def outputs(response: Any) -> list[dict[str, Any]]:
    calls = [item for item in response.output if item.type == "function_call"]
    return [
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": f"sun in {json.loads(call.arguments)['city']}",
        }
        for call in calls
    ]


async def use_tools_without_store() -> str:
    """Sends the whole history again with the tools' outputs."""
    history: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    first = await create(input=history, tools=[TOOL], store=False)
    history += [*first.output, *outputs(first)]
    return (await create(input=history, tools=[TOOL], store=False)).output_text


async def answers_with_text() -> None:
    response = await create(instructions="Be brief.", input="What is the answer?")
    assert response.output_text == "The answer is 42."
    assert await responses.retrieve(response.id) == response


async def streams_text() -> None:
    events, response = await follow(input="What is the answer?")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == response.output_text == "The answer is 42."


async def waits_for_a_slow_stream() -> None:
    events, response = await follow(input="Count.")
    assert response.output_text == "One two."
    assert [event.type for event in events].count("response.in_progress") > 1


async def runs_a_tool() -> None:
    assert await use_tools_without_store() == "It says: sun in Oslo"


async def runs_parallel_tools() -> None:
    _, first = await follow(input="What is the weather in Oslo and Rome?", tools=[TOOL])
    _, second = await follow(input=outputs(first), tools=[TOOL], previous_response_id=first.id)
    assert second.output_text == "It says: sun in Oslo and sun in Rome"


async def parses_structured_output() -> None:
    response = await responses.parse(model=scene.MODEL, input="Which city?", text_format=City)
    assert response.output_parsed == City(city="Köln", inhabitants=1090000)


async def shows_reasoning() -> None:
    events, response = await follow(input="What is the answer?", reasoning={"effort": "low", "summary": "auto"})
    deltas = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(deltas) == response.output[0].summary[0].text == "Let me think."


async def sends_reasoning_back() -> None:
    assert await use_tools_without_store() == "It says: sun in Oslo"


async def continues_a_response() -> None:
    first = await create(input="One.")
    assert (await create(input="Two.", previous_response_id=first.id)).output_text == "Turn 2."


async def reports_a_refusal() -> None:
    response = await create(input="Do it.")
    assert response.output[0].content[0].refusal == "I will not."


async def raises_its_own_errors() -> None:
    for status, expected in scene.ERRORS:
        await scene.raised(expected, create(model=f"{scene.MODEL}-{status}", input="Hi"))
    error = await scene.raised(openai.BadRequestError, create(model=f"{scene.MODEL}-overflow", input="Hi"))
    assert error.code == "context_length_exceeded"
    chained = create(input="Hi", previous_response_id=scene.UNKNOWN_RESPONSE)
    assert (await scene.raised(openai.BadRequestError, chained)).code == "previous_response_not_found"
    assert (await create(input="Hi")).output_text == "Hi."


async def notices_a_broken_stream() -> None:
    await scene.raised(openai.APIConnectionError, follow(f"{scene.MODEL}-cut", input="Hi"))
    events = [event async for event in await create(model=f"{scene.MODEL}-failed", input="Hi", stream=True)]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.message == "out of memory"


if __name__ == "__main__":
    scene.play()
