// The official Node SDK.

import assert from "node:assert/strict";

import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import { UNKNOWN_RESPONSE, WEATHER, apiKey, baseURL, model, play, rejection, weather } from "./scene.mjs";

const client = new OpenAI({ baseURL, apiKey });
const tools = [{ type: "function", strict: true, ...WEATHER }];

const outputs = (response) =>
  response.output
    .filter((item) => item.type === "function_call")
    .map((call) => ({
      type: "function_call_output",
      call_id: call.call_id,
      output: weather(JSON.parse(call.arguments)),
    }));

async function eventsOf(request) {
  const events = [];
  for await (const event of await client.responses.create({ ...request, stream: true })) events.push(event);
  return events;
}

await play({
  async answers_with_text() {
    const response = await client.responses.create({ model, instructions: "Be brief.", input: "What is the answer?" });
    assert.equal(response.output_text, "The answer is 42.");
    assert.equal(response.status, "completed");
    assert.equal(response.usage.total_tokens, 10);
    assert.deepEqual(await client.responses.retrieve(response.id), response);
  },

  async streams_text() {
    const events = await eventsOf({ model, input: "What is the answer?" });
    assert.deepEqual(
      events.map((event) => event.sequence_number),
      events.map((_, index) => index),
    );
    assert.equal(events.at(-1).response.output_text, "The answer is 42.");
    const stream = client.responses.stream({ model, input: "What is the answer?" });
    let text = "";
    stream.on("response.output_text.delta", (event) => (text += event.delta));
    const final = await stream.finalResponse();
    assert.equal(final.output_text, "The answer is 42.");
    assert.equal(text, final.output_text);
  },

  async waits_for_a_slow_stream() {
    const events = await eventsOf({ model, input: "Count." });
    assert.equal(events.at(-1).response.output_text, "One two.");
    const heartbeats = events.filter((event) => event.type === "response.in_progress");
    assert.ok(heartbeats.length > 1, "no heartbeat came");
  },

  // Without the store: the whole history is sent again.
  async runs_a_tool() {
    const input = [{ role: "user", content: "What is the weather in Oslo?" }];
    const request = { model, tools, store: false, include: ["reasoning.encrypted_content"] };
    const first = await client.responses.create({ ...request, input });
    input.push(...first.output, ...outputs(first));
    const second = await client.responses.create({ ...request, input });
    assert.equal(second.output_text, "It says: sun in Oslo");
  },

  async runs_parallel_tools() {
    const first = await client.responses
      .stream({ model, tools, input: "What is the weather in Oslo and Rome?" })
      .finalResponse();
    const second = await client.responses
      .stream({ model, tools, input: outputs(first), previous_response_id: first.id })
      .finalResponse();
    assert.equal(second.output_text, "It says: sun in Oslo and sun in Rome");
  },

  async parses_structured_output() {
    const City = z.object({ city: z.string(), inhabitants: z.number() });
    const format = zodTextFormat(City, "city");
    const response = await client.responses.parse({ model, input: "Which city?", text: { format } });
    assert.deepEqual(response.output_parsed, { city: "Köln", inhabitants: 1090000 });
  },

  async shows_reasoning() {
    const events = await eventsOf({ model, input: "What is the answer?", reasoning: { summary: "auto" } });
    const deltas = events.filter((event) => event.type === "response.reasoning_summary_text.delta");
    assert.equal(deltas.map((event) => event.delta).join(""), "Let me think.");
    const { response } = events.at(-1);
    assert.equal(response.output[0].summary[0].text, "Let me think.");
    assert.equal(response.output_text, "The answer is 42.");
  },

  async sends_reasoning_back() {
    const input = [{ role: "user", content: "What is the weather in Oslo?" }];
    const first = await client.responses.create({ model, tools, input, store: false });
    input.push(...first.output, ...outputs(first));
    const second = await client.responses.create({ model, tools, input, store: false });
    assert.equal(second.output_text, "It says: sun in Oslo");
  },

  async continues_a_response() {
    const first = await client.responses.create({ model, input: "One." });
    const second = await client.responses.create({ model, input: "Two.", previous_response_id: first.id });
    assert.equal(second.output_text, "Turn 2.");
    assert.equal(second.previous_response_id, first.id);
  },

  async reports_a_refusal() {
    const response = await client.responses.stream({ model, input: "Do it." }).finalResponse();
    assert.equal(response.output[0].content[0].refusal, "I will not.");
  },

  async raises_its_own_errors() {
    const expected = {
      400: OpenAI.BadRequestError,
      404: OpenAI.NotFoundError,
      429: OpenAI.RateLimitError,
      500: OpenAI.InternalServerError,
    };
    for (const [status, type] of Object.entries(expected)) {
      const error = await rejection(client.responses.create({ model: `${model}-${status}`, input: "Hi" }));
      assert.ok(error instanceof type, `${status}: ${error}`);
      assert.ok(error.code === null || typeof error.code === "string", `${status}: ${error.code}`);
    }
    const overflow = await rejection(client.responses.create({ model: `${model}-overflow`, input: "Hi" }));
    assert.ok(overflow instanceof OpenAI.BadRequestError);
    assert.equal(overflow.code, "context_length_exceeded");
    const request = { model, input: "Hi", previous_response_id: UNKNOWN_RESPONSE };
    assert.equal((await rejection(client.responses.create(request))).code, "previous_response_not_found");
    assert.equal((await client.responses.create({ model, input: "Hi" })).output_text, "Hi.");
  },

  async notices_a_broken_stream() {
    // What fetch raises: the SDK has no error of its own for this.
    const cut = await rejection(eventsOf({ model: `${model}-cut`, input: "Hi" }));
    assert.equal(`${cut}`, "TypeError: terminated");
    const events = await eventsOf({ model: `${model}-failed`, input: "Hi" });
    assert.equal(events.at(-1).type, "response.failed");
    assert.equal(events.at(-1).response.error.message, "out of memory");
  },
});
