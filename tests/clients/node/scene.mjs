// What the Node programs share: where the router is, and which scene is asked for.

export const baseURL = process.env.BASE_URL;
export const model = process.env.MODEL;
export const apiKey = "sk-test";

export const UNKNOWN_RESPONSE = "resp_" + "0".repeat(32);

export const WEATHER = {
  name: "weather",
  description: "The weather in a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false,
  },
};

export const weather = ({ city }) => `sun in ${city}`;

// The error that a promise is rejected with.
export async function rejection(promise) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  throw new Error(`resolved to ${JSON.stringify(value)} instead of failing`);
}

// Plays the scene that the command line names.
export async function play(scenes) {
  const scene = scenes[process.argv[2]];
  if (!scene) throw new Error(`no scene ${process.argv[2]}`);
  await scene();
}
