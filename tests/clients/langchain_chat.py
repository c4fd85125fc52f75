"""LangChain's chat model on the Responses API, and LangGraph's agent on top of it."""

from __future__ import annotations

from typing import Any

import openai
from langchain_core.exceptions import ModelConnectionError
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import OpenAIRefusalError
from pydantic import BaseModel

import scene


class City(BaseModel):
    city: str
    inhabitants: int


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sun in {city}"


def chat(model: str = scene.MODEL, **options: Any) -> ChatOpenAI:
    options = {"use_responses_api": True, "output_version": "responses/v1"} | options
    return ChatOpenAI(model=model, base_url=scene.BASE_URL, api_key=scene.API_KEY, **options)


async def follow(model: Any, messages: Any) -> AIMessageChunk:
    """The chunks of a stream, added up."""
    whole = None
    async for chunk in model.astream(messages):
        whole = chunk if whole is None else whole + chunk
    return whole


async def use_tools(ask: Any, text: str) -> Any:
    """Sends the whole history again with the tools' outputs, until there is an answer."""
    messages: list[Any] = [HumanMessage(text)]
    while True:
        answer = await ask(messages)
        messages.append(answer)
        if not answer.tool_calls:
            return answer
        for call in answer.tool_calls:
            messages.append(ToolMessage(await weather.ainvoke(call["args"]), tool_call_id=call["id"]))


async def answers_with_text() -> None:
    answer = await chat().ainvoke([("system", "Be brief."), ("user", "What is the answer?")])
    assert answer.text == "The answer is 42."
    assert answer.usage_metadata["total_tokens"] == 10


async def streams_text() -> None:
    answer = await follow(chat(), "What is the answer?")
    assert answer.text == "The answer is 42."
    assert answer.usage_metadata["total_tokens"] == 10


async def waits_for_a_slow_stream() -> None:
    assert (await follow(chat(), "Count.")).text == "One two."


async def runs_a_tool() -> None:
    model = chat().bind_tools([weather])
    assert (await use_tools(model.ainvoke, "What is the weather in Oslo?")).text == "It says: sun in Oslo"


async def runs_parallel_tools() -> None:
    model = chat().bind_tools([weather])
    answer = await use_tools(lambda messages: follow(model, messages), "What is the weather in Oslo and Rome?")
    assert answer.text == "It says: sun in Oslo and sun in Rome"


async def parses_structured_output() -> None:
    city = await chat().with_structured_output(City).ainvoke("Which city?")
    assert city == City(city="Köln", inhabitants=1090000)


async def shows_reasoning() -> None:
    model = chat(reasoning={"effort": "low", "summary": "auto"})
    for answer in (await model.ainvoke("What is the answer?"), await follow(model, "What is the answer?")):
        thoughts = [block["reasoning"] for block in answer.content_blocks if block["type"] == "reasoning"]
        assert thoughts == ["Let me think."], answer.content_blocks
        assert answer.text == "The answer is 42."


async def sends_reasoning_back() -> None:
    model = chat(reasoning={"effort": "low", "summary": "auto"}).bind_tools([weather])
    assert (await use_tools(model.ainvoke, "What is the weather in Oslo?")).text == "It says: sun in Oslo"


async def continues_a_response() -> None:
    model = chat(use_previous_response_id=True)
    messages: list[Any] = [HumanMessage("One.")]
    messages.append(await model.ainvoke(messages))
    messages.append(HumanMessage("Two."))
    assert (await model.ainvoke(messages)).text == "Turn 2."


async def reports_a_refusal() -> None:
    answer = await chat().ainvoke("Do it.")
    assert answer.content[0]["refusal"] == "I will not.", answer.content


async def raises_its_own_errors() -> None:
    for status, expected in scene.ERRORS:
        await scene.raised(expected, chat(f"{scene.MODEL}-{status}").ainvoke("Hi"))
    error = await scene.raised(openai.BadRequestError, chat(f"{scene.MODEL}-overflow").ainvoke("Hi"))
    assert error.code == "context_length_exceeded"
    chained = chat().ainvoke("Hi", previous_response_id=scene.UNKNOWN_RESPONSE)
    assert (await scene.raised(openai.BadRequestError, chained)).code == "previous_response_not_found"
    assert (await chat().ainvoke("Hi")).text == "Hi."


async def notices_a_broken_stream() -> None:
    await scene.raised(ModelConnectionError, follow(chat(f"{scene.MODEL}-cut"), "Hi"))
    # It has no exception of its own for this.
    error = await scene.raised(ValueError, follow(chat(f"{scene.MODEL}-failed"), "Hi"))
    assert "out of memory" in str(error), error


if __name__ == "__main__":
    scene.play()
