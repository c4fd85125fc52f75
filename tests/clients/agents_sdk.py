"""The OpenAI Agents SDK."""

from __future__ import annotations

from typing import Any

import agents
import openai
from agents import Agent, ModelSettings, Runner, function_tool
from openai.types.shared import Reasoning
from pydantic import BaseModel

import scene

agents.set_tracing_disabled(True)


class City(BaseModel):
    city: str
    inhabitants: int


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sun in {city}"


def agent(model: str = scene.MODEL, **options: Any) -> Agent:
    served = agents.OpenAIResponsesModel(model=model, openai_client=scene.client())
    return Agent(name="Assistant", instructions="Be brief.", model=served, **options)


async def follow(starting: Agent, text: str) -> tuple[list[Any], Any]:
    """The raw events of a streamed run, and its result."""
    run = Runner.run_streamed(starting, text)
    events = [event.data async for event in run.stream_events() if event.type == "raw_response_event"]
    return events, run


def joined(events: list[Any], kind: str) -> str:
    return "".join(event.delta for event in events if event.type == kind)


async def answers_with_text() -> None:
    run = await Runner.run(agent(), "What is the answer?")
    assert run.final_output == "The answer is 42.", run.final_output
    assert run.context_wrapper.usage.total_tokens == 10


async def streams_text() -> None:
    events, run = await follow(agent(), "What is the answer?")
    assert joined(events, "response.output_text.delta") == run.final_output == "The answer is 42."


async def waits_for_a_slow_stream() -> None:
    events, run = await follow(agent(), "Count.")
    assert run.final_output == "One two."
    assert [event.type for event in events].count("response.in_progress") > 1


async def runs_a_tool() -> None:
    run = await Runner.run(agent(tools=[weather]), "What is the weather in Oslo?")
    assert run.final_output == "It says: sun in Oslo"


async def runs_parallel_tools() -> None:
    _, run = await follow(agent(tools=[weather]), "What is the weather in Oslo and Rome?")
    assert run.final_output == "It says: sun in Oslo and sun in Rome"


async def parses_structured_output() -> None:
    run = await Runner.run(agent(output_type=City), "Which city?")
    assert run.final_output == City(city="Köln", inhabitants=1090000)


async def shows_reasoning() -> None:
    settings = ModelSettings(reasoning=Reasoning(effort="low", summary="auto"))
    events, run = await follow(agent(model_settings=settings), "What is the answer?")
    assert joined(events, "response.reasoning_summary_text.delta") == "Let me think."
    assert run.final_output == "The answer is 42."
    assert run.new_items[0].raw_item.summary[0].text == "Let me think."


async def sends_reasoning_back() -> None:
    run = await Runner.run(agent(tools=[weather]), "What is the weather in Oslo?")
    assert run.final_output == "It says: sun in Oslo"


async def continues_a_response() -> None:
    first = await Runner.run(agent(), "One.")
    second = await Runner.run(agent(), "Two.", previous_response_id=first.last_response_id)
    assert second.final_output == "Turn 2."


async def reports_a_refusal() -> None:
    error = await scene.raised(agents.ModelRefusalError, Runner.run(agent(output_type=City), "Do it."))
    assert "I will not." in str(error), error


async def raises_its_own_errors() -> None:
    for status, expected in scene.ERRORS:
        await scene.raised(expected, Runner.run(agent(f"{scene.MODEL}-{status}"), "Hi"))
    error = await scene.raised(openai.BadRequestError, Runner.run(agent(f"{scene.MODEL}-overflow"), "Hi"))
    assert error.code == "context_length_exceeded"
    chained = Runner.run(agent(), "Hi", previous_response_id=scene.UNKNOWN_RESPONSE)
    assert (await scene.raised(openai.BadRequestError, chained)).code == "previous_response_not_found"
    assert (await Runner.run(agent(), "Hi")).final_output == "Hi."


async def notices_a_broken_stream() -> None:
    await scene.raised(openai.APIConnectionError, follow(agent(f"{scene.MODEL}-cut"), "Hi"))
    error = await scene.raised(agents.ModelBehaviorError, follow(agent(f"{scene.MODEL}-failed"), "Hi"))
    assert "out of memory" in str(error), error


if __name__ == "__main__":
    scene.play()
