// The voice bar: talk, hands-free, stop, replay, save. Sound comes by `server.feed`, beside the page's own updates,
// so it goes on when the page is in the background, and no update can swallow a part of it.
const { player, Microphone, toBytes, toBase64, join } = window.emova;
const find = (name) => element.querySelector(`[data-do="${name}"]`);
const note = element.querySelector(".em-note");
const orb = element.querySelector(".em-orb");
const HINT = note.textContent;

let ticket = null;
let generation = 0; // of the sound that is played, or was last
let silenced = 0; // sound up to this generation is not wanted any more
let pumping = false;
let asked = false; // a question is on its way
let mode = null; // "push", "free", or null
let microphone = null;

// --- sound -----------------------------------------------------------------------------------------------------------
async function pump() {
  if (pumping || !ticket) return;
  pumping = true;
  let position = 0;
  let patience = Date.now() + 60000;
  try {
    while (Date.now() < patience) {
      const got = await server.feed({ ticket, generation, position, fresh: asked });
      if (got.error) return say(got.error);
      if (got.generation > generation) {
        generation = got.generation;
        position = 0;
        asked = false;
        if (generation > silenced) player.begin();
      }
      const wanted = generation > silenced;
      if (got.pcm && wanted) player.push(toBytes(got.pcm), got.rate);
      position = got.position;
      patience = Date.now() + 60000;
      if (got.ended && !asked) {
        if (wanted) player.finish();
        return;
      }
    }
  } finally {
    pumping = false;
    asked = false;
    show();
  }
}

function silence() {
  const heard = player.heard();
  silenced = generation;
  player.stop();
  return heard;
}

function stop() {
  const told = player.heard();
  const heard = silence();
  if (ticket && (told !== null || asked)) server.interrupt({ ticket, heard });
}

// --- microphone ------------------------------------------------------------------------------------------------------
let waiting = [];
let sending = null;

function send(block) {
  waiting.push(block);
  sending = sending || deliver();
}

async function deliver() {
  try {
    while (waiting.length) {
      const pcm = toBase64(join(waiting));
      waiting = [];
      const got = await server.hear({ ticket, mode, pcm, rate: microphone.rate, heard: player.heard() });
      if (got.error) {
        say(got.error);
        if (mode === "push") await close();
        continue;
      }
      if (got.began && mode === "free") {
        silence();
        say("Listening …");
      }
      if (got.ended) ask();
    }
  } catch (error) {
    say("The connection is lost; reload the page.");
  } finally {
    sending = null;
  }
}

function ask() {
  asked = true;
  say("");
  trigger("spoken", {});
  pump();
}

async function open(wanted) {
  if (mode) await close();
  mode = wanted;
  microphone = new Microphone();
  show();
  try {
    if (wanted === "push") stop();
    await microphone.open(send);
    say(wanted === "push" ? "Speak, then press again." : "Just speak. You may interrupt me.");
  } catch (error) {
    mode = null;
    say(error.message);
  }
  show();
}

async function close() {
  if (microphone) microphone.close();
  mode = null;
  waiting = [];
  show();
  say("");
  if (ticket) await server.interrupt({ ticket, hush: true });
}

async function push() {
  if (mode !== "push") return open("push");
  const used = microphone;
  used.close();
  used.tap = null;
  while (sending || waiting.length) await (sending || (sending = deliver()));
  if (mode !== "push") return; // the server refused what was said
  mode = null;
  show();
  ask();
}

// --- what is seen ----------------------------------------------------------------------------------------------------
function say(text) {
  note.textContent = text || HINT;
}

function show() {
  const speaking = player.open || player.sounding;
  orb.dataset.state = mode === "push" || (mode === "free" && !speaking) ? "listening" : speaking ? "speaking" : "idle";
  find("talk").setAttribute("aria-pressed", mode === "push");
  find("talk").querySelector("b").textContent = mode === "push" ? "Send" : "Talk";
  find("free").setAttribute("aria-pressed", mode === "free");
  find("stop").disabled = !speaking && !asked;
  find("replay").disabled = find("save").disabled = !player.chunks.length || player.open;
}

function glow() {
  const level = player.sounding ? player.level() : (mode && microphone && microphone.level) || 0;
  orb.style.setProperty("--level", Math.min(1, level * 6).toFixed(3));
  requestAnimationFrame(glow);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(player.wav());
  link.download = "answer.wav";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

player.onchange = show;
find("talk").addEventListener("click", push);
find("free").addEventListener("click", () => (mode === "free" ? close() : open("free")));
find("stop").addEventListener("click", stop);
find("replay").addEventListener("click", () => player.replay());
find("save").addEventListener("click", save);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && player.heard() !== null) stop();
});

// A card of "same words, other styles" plays its own sound.
document.addEventListener("click", async (event) => {
  const card = event.target.closest(".em-style[data-style]");
  if (!card || !ticket) return;
  stop();
  const got = await server.style({ ticket, style: card.dataset.style });
  if (got.error) return say(got.error);
  const kept = player.chunks;
  player.begin();
  player.push(toBytes(got.pcm), got.rate);
  player.finish();
  player.chunks = kept; // replay and save go on meaning the answer
  document.querySelectorAll(".em-playing").forEach((other) => other.classList.remove("em-playing"));
  card.classList.add("em-playing");
});

// Before a written question: what was heard so far, and silence.
window.emova.hush = () => {
  const heard = silence();
  return heard === null ? -1 : heard;
};

function enter(mine) {
  ticket = mine;
  window.emova.ticketed = true;
}

watch("value", () => {
  const { ticket: mine, generation: newest } = props.value || {};
  if (mine) enter(mine);
  if (newest > generation) pump();
});
if (props.value && props.value.ticket) enter(props.value.ticket);
show();
glow();
