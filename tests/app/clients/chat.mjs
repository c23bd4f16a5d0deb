// Streams one chat with OpenAI's package and prints what its helper joined: node chat.mjs URL KEY REQUEST
import OpenAI from "openai";

const [baseURL, apiKey, request] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
try {
  const stream = client.chat.completions.stream(JSON.parse(request));
  const whole = await stream.finalChatCompletion();
  console.log(JSON.stringify(whole.choices[0]));
} catch (error) {
  console.log(JSON.stringify({ error: { status: error.status, message: error.message, param: error.param } }));
}
