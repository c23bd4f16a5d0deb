// A spoken conversation of three turns with openai-agents, the first answer interrupted.
// node talk.mjs ADDRESS KEY SOUND: SOUND is 16-bit PCM at 24 kHz; prints what happened as JSON.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { RealtimeAgent, RealtimeSession } from '@openai/agents-realtime';

const [address, key, file] = process.argv.slice(2);
const sound = readFileSync(file);
const PIECE = 960; // bytes of 20 ms
const told = { interrupted: 0, answers: 0, bytes: 0, errors: [], history: [] };

const agent = new RealtimeAgent({ name: 'Assistant', instructions: 'Be kind.' });
const session = new RealtimeSession(agent, {
  transport: 'websocket',
  model: 'emova-nano',
  config: { audio: { input: { transcription: { model: 'emova-nano' } } } },
});

async function speak() {
  for (let start = 0; start < sound.length; start += PIECE) {
    session.sendAudio(new Uint8Array(sound.subarray(start, start + PIECE)).buffer);
    await sleep(5);
  }
}

let begun = 0;
const ended = new Promise((resolve) => {
  session.on('agent_start', () => { begun += 1; });
  session.on('audio_interrupted', () => { told.interrupted += 1; });
  session.on('error', (error) => { told.errors.push(JSON.stringify(error)); resolve(); });
  let interrupting = false;
  session.on('audio', (event) => {
    told.bytes += event.data.byteLength;
    if (begun === 1 && !interrupting) {
      interrupting = true;
      speak();
    }
  });
  session.on('agent_end', () => {
    told.answers += 1;
    if (begun === 2) speak();
    if (begun === 3) resolve();
  });
});

await session.connect({ apiKey: key, url: address });
speak();
await ended;
await sleep(300); // the last items of the history are on their way
told.history = session.history
  .filter((item) => item.type === 'message')
  .map((item) => [item.role, item.content.map((part) => part.transcript ?? part.text ?? '').join('')]);
console.log(JSON.stringify(told));
process.exit(0);
