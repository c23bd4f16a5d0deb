// A button that records a few seconds and hands them over once, in memory: no file is made of them.
const { player, Microphone, toBase64, join } = window.emova;
const button = element.querySelector("button");
const word = element.querySelector("b");
const fill = element.querySelector(".em-fill");
const note = element.querySelector(".em-note");
const { seconds, rate, clean } = element.querySelector("[data-seconds]").dataset;
const limit = Number(seconds);
const idle = word.textContent;
const hint = note.textContent;

let microphone = null;
let blocks = [];

function show() {
  const recorded = blocks.length / 10;
  button.setAttribute("aria-pressed", Boolean(microphone));
  word.textContent = microphone ? `Stop (${Math.max(0, limit - recorded).toFixed(0)} s left)` : idle;
  fill.style.transform = `scaleX(${microphone ? recorded / limit : 0})`;
}

function finish() {
  const used = microphone;
  microphone = null;
  const samples = join(blocks);
  const at = used.rate;
  used.close();
  blocks = [];
  show();
  if (samples.length) trigger("recorded", { pcm: toBase64(samples), rate: at });
}

async function start() {
  player.stop();
  note.textContent = hint;
  microphone = new Microphone();
  blocks = [];
  try {
    await microphone.open(
      (block) => {
        blocks.push(block);
        show();
        if (blocks.length >= limit * 10) finish();
      },
      { rate: Number(rate), clean: clean === "yes" },
    );
  } catch (error) {
    microphone = null;
    note.textContent = error.message;
  }
  show();
}

button.addEventListener("click", () => (microphone ? finish() : start()));
