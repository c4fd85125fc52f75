// The OpenAI Agents SDK for Node.

import assert from "node:assert/strict";

import { Agent, ModelBehaviorError, ModelRefusalError, OpenAIResponsesModel, run, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

import { UNKNOWN_RESPONSE, WEATHER, apiKey, baseURL, model, play, rejection, weather } from "./scene.mjs";

setTracingDisabled(true);

const client = new OpenAI({ baseURL, apiKey });
const tools = [
  tool({
    name: WEATHER.name,
    description: WEATHER.description,
    parameters: z.object({ city: z.string() }),
    execute: async (input) => weather(input),
  }),
];
const City = z.object({ city: z.string(), inhabitants: z.number() });

const agent = ({ served = model, ...options } = {}) =>
  new Agent({
    name: "Assistant",
    instructions: "Be brief.",
    model: new OpenAIResponsesModel(client, served),
    ...options,
  });

// The model's events of a streamed run, and what it came to.
async function follow(starting, text) {
  const result = await run(starting, text, { stream: true });
  const events = [];
  for await (const event of result) {
    if (event.type === "raw_model_stream_event" && event.data.type === "model") events.push(event.data.event);
  }
  await result.completed;
  return { events, result };
}

await play({
  async answers_with_text() {
    assert.equal((await run(agent(), "What is the answer?")).finalOutput, "The answer is 42.");
  },

  async streams_text() {
    const { events, result } = await follow(agent(), "What is the answer?");
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    assert.equal(deltas.map((event) => event.delta).join(""), "The answer is 42.");
    assert.equal(result.finalOutput, "The answer is 42.");
  },

  async waits_for_a_slow_stream() {
    const { result } = await follow(agent(), "Count.");
    assert.equal(result.finalOutput, "One two.");
  },

  async runs_a_tool() {
    const result = await run(agent({ tools }), "What is the weather in Oslo?");
    assert.equal(result.finalOutput, "It says: sun in Oslo");
  },

  async runs_parallel_tools() {
    const { result } = await follow(agent({ tools }), "What is the weather in Oslo and Rome?");
    assert.equal(result.finalOutput, "It says: sun in Oslo and sun in Rome");
  },

  async parses_structured_output() {
    const result = await run(agent({ outputType: City }), "Which city?");
    assert.deepEqual(result.finalOutput, { city: "Köln", inhabitants: 1090000 });
  },

  async shows_reasoning() {
    const modelSettings = { reasoning: { effort: "low", summary: "auto" } };
    const { result } = await follow(agent({ modelSettings }), "What is the answer?");
    const reasoning = result.newItems.find((item) => item.type === "reasoning_item");
    assert.equal(reasoning.rawItem.content[0].text, "Let me think.");
    assert.equal(result.finalOutput, "The answer is 42.");
  },

  async sends_reasoning_back() {
    const modelSettings = { reasoning: { effort: "low", summary: "auto" } };
    const result = await run(agent({ tools, modelSettings }), "What is the weather in Oslo?");
    assert.equal(result.finalOutput, "It says: sun in Oslo");
  },

  async continues_a_response() {
    const first = await run(agent(), "One.");
    const second = await run(agent(), "Two.", { previousResponseId: first.lastResponseId });
    assert.equal(second.finalOutput, "Turn 2.");
  },

  async reports_a_refusal() {
    const error = await rejection(run(agent({ outputType: City }), "Do it."));
    assert.ok(error instanceof ModelRefusalError, `${error}`);
  },

  async raises_its_own_errors() {
    const expected = {
      400: OpenAI.BadRequestError,
      404: OpenAI.NotFoundError,
      429: OpenAI.RateLimitError,
      500: OpenAI.InternalServerError,
    };
    for (const [status, type] of Object.entries(expected)) {
      const error = await rejection(run(agent({ served: `${model}-${status}` }), "Hi"));
      assert.ok(error instanceof type, `${status}: ${error}`);
    }
    const overflow = await rejection(run(agent({ served: `${model}-overflow` }), "Hi"));
    assert.equal(overflow.code, "context_length_exceeded");
    const unknown = await rejection(run(agent(), "Hi", { previousResponseId: UNKNOWN_RESPONSE }));
    assert.equal(unknown.code, "previous_response_not_found");
    assert.equal((await run(agent(), "Hi")).finalOutput, "Hi.");
  },

  async notices_a_broken_stream() {
    // What fetch raises: neither it nor the SDK has an error of its own for this.
    const cut = await rejection(follow(agent({ served: `${model}-cut` }), "Hi"));
    assert.equal(`${cut}`, "TypeError: terminated");
    const failed = await rejection(follow(agent({ served: `${model}-failed` }), "Hi"));
    assert.ok(failed instanceof ModelBehaviorError, `${failed}`);
    assert.match(failed.message, /response\.failed/);
  },
});
