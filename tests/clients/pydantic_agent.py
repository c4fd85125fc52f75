"""PydanticAI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError, ModelServerError, UnexpectedModelBehavior
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

import scene


class City(BaseModel):
    city: str
    inhabitants: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sun in {city}"


def agent(model: str = scene.MODEL, **options: Any) -> Agent:
    served = OpenAIResponsesModel(model, provider=OpenAIProvider(openai_client=scene.client()))
    return Agent(served, instructions="Be brief.", **options)


async def follow(starting: Agent, text: str) -> Any:
    """The result of a streamed run, whose pieces are its output."""
    async with starting.run_stream(text) as run:
        pieces = [piece async for piece in run.stream_text(delta=True)]
        output = await run.get_output()
    assert "".join(pieces) == output
    return run


async def answers_with_text() -> None:
    run = await agent().run("What is the answer?")
    assert run.output == "The answer is 42."
    assert run.usage.total_tokens == 10


async def streams_text() -> None:
    assert await (await follow(agent(), "What is the answer?")).get_output() == "The answer is 42."


async def waits_for_a_slow_stream() -> None:
    assert await (await follow(agent(), "Count.")).get_output() == "One two."


async def runs_a_tool() -> None:
    assert (await agent(tools=[weather]).run("What is the weather in Oslo?")).output == "It says: sun in Oslo"


async def runs_parallel_tools() -> None:
    run = await follow(agent(tools=[weather]), "What is the weather in Oslo and Rome?")
    assert await run.get_output() == "It says: sun in Oslo and sun in Rome"


async def parses_structured_output() -> None:
    run = await agent(output_type=NativeOutput(City)).run("Which city?")
    assert run.output == City(city="Köln", inhabitants=1090000)


async def shows_reasoning() -> None:
    settings = OpenAIResponsesModelSettings(openai_reasoning_effort="low", openai_reasoning_summary="auto")
    run = await follow(agent(model_settings=settings), "What is the answer?")
    (thinking,) = [part for part in run.all_messages()[-1].parts if isinstance(part, ThinkingPart)]
    assert thinking.content == "Let me think."
    assert await run.get_output() == "The answer is 42."


async def sends_reasoning_back() -> None:
    # It replays raw reasoning as an item, a summary of a model that it does not know as text.
    assert (await agent(tools=[weather]).run("What is the weather in Oslo?")).output == "It says: sun in Oslo"


async def continues_a_response() -> None:
    first = await agent().run("One.")
    settings = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
    second = await agent(model_settings=settings).run("Two.", message_history=first.all_messages())
    assert second.output == "Turn 2."


async def reports_a_refusal() -> None:
    error = await scene.raised(UnexpectedModelBehavior, agent().run("Do it."))
    assert "refus" in repr(error).lower(), error


async def raises_its_own_errors() -> None:
    for status in (400, 404, 429, 500):
        error = await scene.raised(ModelHTTPError, agent(f"{scene.MODEL}-{status}").run("Hi"))
        assert error.status_code == status, error
    error = await scene.raised(ModelHTTPError, agent(f"{scene.MODEL}-overflow").run("Hi"))
    assert error.body["code"] == "context_length_exceeded", error
    settings = OpenAIResponsesModelSettings(openai_previous_response_id=scene.UNKNOWN_RESPONSE)
    error = await scene.raised(ModelHTTPError, agent(model_settings=settings).run("Hi"))
    assert error.body["code"] == "previous_response_not_found", error
    assert (await agent().run("Hi")).output == "Hi."


async def notices_a_broken_stream() -> None:
    await scene.raised(ModelConnectionError, follow(agent(f"{scene.MODEL}-cut"), "Hi"))
    error = await scene.raised(ModelServerError, follow(agent(f"{scene.MODEL}-failed"), "Hi"))
    assert error.body == {"code": "server_error", "message": "out of memory"}, error


if __name__ == "__main__":
    scene.play()
