// The Vercel AI SDK with its OpenAI provider, whose default is the Responses API.

import assert from "node:assert/strict";

import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, Output, RetryError, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { UNKNOWN_RESPONSE, WEATHER, apiKey, baseURL, model, play, rejection, weather } from "./scene.mjs";

const openai = createOpenAI({ baseURL, apiKey });
const tools = {
  weather: tool({
    description: WEATHER.description,
    inputSchema: jsonSchema(WEATHER.parameters),
    execute: async (input) => weather(input),
  }),
};
// It knows models that think by their names, and sends no reasoning settings to others.
const thinking = { openai: { forceReasoning: true, reasoningSummary: "auto", reasoningEffort: "low" } };

const ask = (prompt, options = {}) => generateText({ model: openai(model), prompt, maxRetries: 1, ...options });

// The parts of a stream, and what it came to.
async function follow(prompt, options = {}) {
  const result = streamText({ model: openai(model), prompt, maxRetries: 1, onError: () => {}, ...options });
  const parts = [];
  for await (const part of result.fullStream) parts.push(part);
  return { parts, result };
}

const joined = (parts, type) =>
  parts
    .filter((part) => part.type === type)
    .map((part) => part.text)
    .join("");

await play({
  async answers_with_text() {
    const answer = await ask("What is the answer?", { system: "Be brief." });
    assert.equal(answer.text, "The answer is 42.");
    assert.equal(answer.finishReason, "stop");
    assert.equal(answer.usage.totalTokens, 10);
  },

  async streams_text() {
    const { parts, result } = await follow("What is the answer?");
    assert.equal(joined(parts, "text-delta"), "The answer is 42.");
    assert.equal(await result.text, "The answer is 42.");
    assert.equal((await result.usage).totalTokens, 10);
  },

  async waits_for_a_slow_stream() {
    const { result } = await follow("Count.");
    assert.equal(await result.text, "One two.");
  },

  // Its steps refer to the stored items of the step before.
  async runs_a_tool() {
    const answer = await ask("What is the weather in Oslo?", { tools, stopWhen: stepCountIs(3) });
    assert.equal(answer.text, "It says: sun in Oslo");
    assert.equal(answer.steps.length, 2);
  },

  async runs_parallel_tools() {
    const { result } = await follow("What is the weather in Oslo and Rome?", { tools, stopWhen: stepCountIs(3) });
    assert.equal(await result.text, "It says: sun in Oslo and sun in Rome");
  },

  async parses_structured_output() {
    const schema = z.object({ city: z.string(), inhabitants: z.number() });
    const answer = await ask("Which city?", { output: Output.object({ schema }) });
    assert.deepEqual(answer.output, { city: "Köln", inhabitants: 1090000 });
  },

  async shows_reasoning() {
    const { parts, result } = await follow("What is the answer?", { providerOptions: thinking });
    assert.equal(joined(parts, "reasoning-delta"), "Let me think.");
    assert.equal(await result.reasoningText, "Let me think.");
    assert.equal(await result.text, "The answer is 42.");
  },

  async sends_reasoning_back() {
    const options = { tools, stopWhen: stepCountIs(3), providerOptions: thinking };
    assert.equal((await ask("What is the weather in Oslo?", options)).text, "It says: sun in Oslo");
  },

  async continues_a_response() {
    const first = await ask("One.");
    const previousResponseId = first.providerMetadata.openai.responseId;
    const second = await ask("Two.", { providerOptions: { openai: { previousResponseId } } });
    assert.equal(second.text, "Turn 2.");
  },

  async reports_a_refusal() {
    const { parts, result } = await follow("Do it.");
    assert.equal(joined(parts, "text-delta"), "I will not.");
    assert.equal(await result.finishReason, "content-filter");
  },

  async raises_its_own_errors() {
    for (const status of [400, 404, 429, 500]) {
      let error = await rejection(ask("Hi", { model: openai(`${model}-${status}`) }));
      if (RetryError.isInstance(error)) error = error.lastError;
      assert.ok(APICallError.isInstance(error), `${status}: ${error}`);
      assert.equal(error.statusCode, status);
      assert.equal(error.isRetryable, status === 429 || status === 500);
    }
    const overflow = await rejection(ask("Hi", { model: openai(`${model}-overflow`) }));
    assert.equal(overflow.data.error.code, "context_length_exceeded");
    const providerOptions = { openai: { previousResponseId: UNKNOWN_RESPONSE } };
    const unknown = await rejection(ask("Hi", { providerOptions }));
    assert.equal(unknown.data.error.code, "previous_response_not_found");
    assert.equal((await ask("Hi")).text, "Hi.");
  },

  async notices_a_broken_stream() {
    const cut = await rejection(follow("Hi", { model: openai(`${model}-cut`) }));
    assert.ok(APICallError.isInstance(cut), `${cut}`);
    assert.equal(`${cut.cause}`, "TypeError: terminated");
    const { parts } = await follow("Hi", { model: openai(`${model}-failed`) });
    const { error } = parts.find((part) => part.type === "error");
    assert.equal(error.type, "response.failed");
    assert.equal(error.message, "out of memory");
    assert.equal(parts.at(-1).finishReason, "error");
  },
});
