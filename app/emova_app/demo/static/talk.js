// The talk: what the server's Realtime events make of the page, and what the visitor does.
window.emova.talk = (element, server) => {
  const { player, Link, Lines, Captions, Ears, MOST_SECONDS, toBytes, once, upload, kindOf, takers, camera, drawer, sheet, roving, make, time } = window.emova;
  const find = (selector) => element.querySelector(selector);
  const doing = (name) => find(`[data-do="${name}"]`);
  const app = find(".em-app");
  const orb = find(".em-orb");
  const note = find(".em-note");
  const box = find(".em-lines");
  const text = find("textarea");
  const { emotions, language } = app.dataset;

  const link = new Link(server);
  let asking = false; // a question is on its way to the server
  let response = null; // the answer that is being made: { id, item, old }
  let silenced = null; // the answer that shall not sound
  let told = ""; // a line that stands until something else happens
  let calm = false; // it is no problem
  let trouble = ""; // of the connection

  // --- what is seen ----------------------------------------------------------------------------------------------
  function tell(line, quiet = false) {
    told = line;
    calm = quiet;
  }

  function say(line, quiet = false) {
    tell(line, quiet);
    show();
  }

  function phase() {
    if (ears.mode === "push") return "recording";
    if (ears.mode === "free" && ears.hearing) return "listening";
    if (player.sounding || (player.open && player.chunks.length)) return "speaking";
    if (asking || (response && !response.old && silenced !== response.id)) return "thinking";
    return ears.mode === "free" ? "ready" : "idle";
  }

  const WORDS = {
    recording: "Listening. Press Send when you are done.",
    listening: "Listening …",
    thinking: "Thinking …",
    speaking: "Speaking. You may interrupt.",
    ready: "Just speak. You may interrupt.",
    idle: "Press Talk and speak, or write.",
  };
  // With a mouse there is a keyboard.
  const KEYS = {
    recording: "Listening. Press again to send, Esc to cancel.",
    idle: "Press Talk and speak, hold the space bar, or write.",
  };
  const roomy = matchMedia("(pointer: fine) and (min-width: 900px)");
  roomy.addEventListener("change", () => show());

  let shown = "";
  function show() {
    const now = phase();
    const before = app.dataset.phase;
    app.dataset.phase = now;
    app.dataset.empty = lines.empty ? "yes" : "no";
    const words = trouble || told || (roomy.matches && KEYS[now]) || WORDS[now];
    if (words !== shown) note.textContent = shown = words;
    note.classList.toggle("em-alert", Boolean(trouble || (told && !calm)));
    doing("talk").setAttribute("aria-pressed", now === "recording");
    doing("free").setAttribute("aria-pressed", ears.mode === "free");
    doing("stop").disabled = !["speaking", "thinking"].includes(now);
    find(".em-recording").hidden = now !== "recording";
    if (now === "recording") {
      find(".em-clock").textContent = time(ears.seconds) + (ears.seconds > MOST_SECONDS - 10 ? ` / ${time(MOST_SECONDS)}` : "");
    }
    // The buttons change places, and the focus with them.
    if (now === before) return;
    const focused = document.activeElement;
    if (now === "recording" && focused !== text && find(".em-writing").contains(focused)) doing("send-recording").focus();
    if (before === "recording" && (focused === document.body || find(".em-recording").contains(focused))) doing("talk").focus();
  }

  const still = matchMedia("(prefers-reduced-motion: reduce)");
  function glow() {
    const mine = Math.min(1, ears.level * 7);
    const its = player.sounding ? Math.min(1, player.level() * 6) : 0;
    orb.style.setProperty("--mine", still.matches ? (mine > 0.1 ? 0.5 : 0) : mine.toFixed(3));
    orb.style.setProperty("--its", still.matches ? (its > 0.05 ? 0.5 : 0) : its.toFixed(3));
    find(".em-level").style.transform = `scaleX(${mine.toFixed(3)})`;
    requestAnimationFrame(glow);
  }

  // --- sound -----------------------------------------------------------------------------------------------------
  // What was heard of the answer that sounds (s); null if none does. From now on it is silent.
  function silence() {
    const heard = response && player.what === response.item ? player.heard() : saying() ? player.heard() : null;
    if (response) silenced = response.id;
    player.stop();
    return heard;
  }

  // The newest answer sounds as it was told, not again.
  function saying() {
    return player.sounding && player.what === newest;
  }
  let newest = null;

  function stop() {
    const wanted = asking || response || player.sounding;
    const heard = silence();
    captions.clear();
    if (wanted && link.ticket) link.send("interrupt", { heard }).catch((error) => say(error.message));
    show();
  }

  // An answer that is played again, or anything else: what is being told ends.
  document.addEventListener("emova:hush", () => {
    if (response || saying()) stop();
  });

  // --- the server's events ---------------------------------------------------------------------------------------
  const EVENTS = {
    "session.created": ({ session }) => {
      if (session.topic) return lines.topic();
      lines.clear();
      captions.clear();
    },
    "conversation.item.added": ({ item }) => {
      const spoken = item.role === "user" && item.content.some((part) => part.type === "input_audio");
      lines.add(item, spoken ? captions.take() : "");
    },
    "conversation.item.done": ({ item }) => lines.fill(item),
    "conversation.item.deleted": ({ item_id }) => lines.remove(item_id),
    "conversation.item.input_audio_transcription.delta": ({ item_id, delta }) => lines.append(item_id, delta),
    "response.created": ({ response: made }, old) => {
      response = { id: made.id, item: null, old };
      asking = false;
      if (!old) tell("");
      if (elsewhere()) silenced = made.id; // it can be heard when the visitor is back
    },
    "response.output_audio_transcript.delta": ({ item_id, delta }) => {
      lines.settle(); // the question was written down
      lines.append(item_id, delta);
    },
    "response.output_audio.delta": (event) => {
      if (!response || response.id !== event.response_id || response.old || silenced === response.id) return;
      if (response.item === null) {
        response.item = newest = event.item_id;
        player.begin(event.item_id);
      }
      player.push(toBytes(event.delta), event.rate);
    },
    "response.done": ({ response: made, error }, old) => {
      if (response && response.id === made.id) {
        if (response.item !== null && silenced !== made.id) {
          player.finish();
          if (made.status === "completed") lines.keep(made.item, player.chunks, player.rate);
        }
        response = null;
      }
      lines.settle();
      if (error && !old) tell(error);
      drawer_.newAnswer();
    },
  };

  link.addEventListener("event", ({ detail: { event, old } }) => {
    const react = EVENTS[event.type];
    if (react) react(event, old);
    show();
  });
  link.addEventListener("entered", ({ detail }) => {
    lines.clear();
    captions.clear();
    response = null;
    find(".em-wait").hidden = true;
    picture(detail.state.picture);
    drawer_.settled(detail.state);
    tell(detail.lost ? "The conversation before was closed; this is a new one." : "");
    trouble = "";
    window.emova.entered = true;
    show();
  });
  link.addEventListener("trouble", ({ detail }) => {
    trouble = detail;
    show();
  });
  link.addEventListener("waiting", ({ detail }) => wait(
    "One moment",
    `All ${detail.open} places are taken. You are number ${detail.waiting} in the line; the talk opens by itself.`,
  ));
  link.addEventListener("ended", ({ detail }) => {
    ears.close();
    captions.clear();
    player.stop();
    const moved = detail.ended === "moved";
    wait(
      moved ? "It goes on elsewhere" : "This talk has ended",
      moved ? "This conversation was opened in another tab." : "Its place was given away, or the demo was started again. What was said can still be read behind this.",
      moved ? "Use it here" : "Begin a new one",
    );
  });

  function wait(title, line, word = "") {
    const shade = find(".em-wait");
    shade.querySelector("h2").textContent = title;
    const words = shade.querySelector("p");
    if (words.textContent !== line) words.textContent = line;
    shade.querySelector("button").hidden = !word;
    shade.querySelector("button").textContent = word;
    shade.hidden = false;
  }
  find(".em-wait button").addEventListener("click", once(() => link.run()));

  // --- asking ----------------------------------------------------------------------------------------------------
  // One question after the other, and none is lost; whatever is being told is broken off.
  let questions = Promise.resolve();
  const ask = (how, more = {}) => (questions = questions.then(() => askNow(how, more)));
  const askNow = async (how, more) => {
    const heard = silence();
    asking = true;
    tell("");
    show();
    try {
      await link.send("ask", { how, heard, ...more });
      return true;
    } catch (error) {
      tell(error.message);
      captions.clear();
      return false;
    } finally {
      asking = false;
      show();
    }
  };

  const captions = new Captions(find(".em-caption"), find(".em-unseen"));
  const ears = new Ears(link, {
    hush: (tell = true) => (tell ? stop() : silence()),
    caption: (said, draft) => captions.show(said, draft),
    forget: () => captions.clear(),
    ask: () => {
      captions.end();
      return ask("spoken");
    },
    change: show,
    say,
  });

  const write = once(async () => {
    const words = text.value.trim();
    if (!words) {
      text.focus();
      return say("Write a question first, or press Talk.");
    }
    await taking; // a picture that is on its way belongs to it
    if ((await ask("written", { text: words })) && text.value.trim() === words) {
      text.value = "";
      sessionStorage.removeItem(DRAFT);
      grow();
    }
  });

  const grow = () => {
    text.style.height = "auto";
    text.style.height = `${Math.min(120, text.scrollHeight + 2)}px`;
  };
  const DRAFT = "emova-draft";
  text.value = sessionStorage.getItem(DRAFT) || "";
  text.addEventListener("input", () => {
    sessionStorage.setItem(DRAFT, text.value);
    grow();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    write();
  });
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });

  // --- talking: press and press again, or hold -------------------------------------------------------------------
  let pressed = 0;
  let held = false;
  const HOLD_MS = 400;
  const begin = () => ears.open("push");
  const press = (event) => {
    const quick = performance.now() - pressed < 350; // the second half of a double click
    if (event.button || quick) return;
    pressed = performance.now();
    held = ears.mode !== "push";
    if (held) begin();
    else ears.send();
  };
  const release = () => {
    if (held && ears.mode === "push" && performance.now() - pressed > HOLD_MS) ears.send();
    held = false;
  };
  for (const button of [doing("talk"), orb]) {
    button.addEventListener("pointerdown", press);
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    button.addEventListener("click", (event) => event.detail === 0 && (ears.mode === "push" ? ears.send() : begin()));
  }
  document.addEventListener("pointerup", release);
  document.addEventListener("pointercancel", () => (held = false));

  const elsewhere = () => document.body.dataset.tab !== "talk";
  const covered = () => elsewhere() || document.querySelector("dialog[open]");
  let spaced = false;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !covered()) {
      if (ears.mode === "push" || ears.opening) ears.cancel();
      else if (asking || response || player.sounding) stop();
      return;
    }
    const plain = !event.ctrlKey && !event.altKey && !event.metaKey && !event.shiftKey;
    const other = event.target.closest("input, textarea, button, select, a, audio, [contenteditable], [role=tab]");
    const writing = other && !["talk", "send-recording"].includes(other.dataset.do);
    if (event.code !== "Space" || !plain || writing || covered()) return;
    event.preventDefault();
    if (event.repeat || spaced) return;
    spaced = true;
    pressed = performance.now();
    if (ears.mode === "push") ears.send();
    else begin();
  });
  document.addEventListener("keyup", (event) => {
    if (event.code !== "Space" || !spaced) return;
    event.preventDefault();
    spaced = false;
    if (ears.mode === "push" && performance.now() - pressed > HOLD_MS) ears.send();
  });
  addEventListener("blur", () => (spaced = false));

  doing("send-recording").addEventListener("click", () => ears.send());
  doing("cancel").addEventListener("click", () => {
    ears.cancel();
    doing("talk").focus();
  });
  doing("free").addEventListener("click", once(() => (ears.mode === "free" ? ears.cancel() : ears.open("free"))));
  doing("stop").addEventListener("click", stop);

  // --- pictures and recordings -----------------------------------------------------------------------------------
  function picture(address) {
    const chip = find(".em-picture");
    chip.hidden = !address;
    if (address) chip.querySelector("img").src = address;
  }

  // One after the other, so that the last one stands.
  let taking = Promise.resolve();
  const take = (files) => (taking = taking.then(() => takeNow(files)));
  const takeNow = async (files) => {
    try {
      const kind = kindOf(files[0]);
      say(kind === "picture" ? "Looking …" : "Hearing …", true);
      const path = await upload(files[0]);
      if (kind === "recording") return await ask("file", { path });
      picture((await link.send("show", { path })).picture);
      say(files.length > 1 ? "One picture at a time: the first one was taken." : "");
    } catch (error) {
      say(error.message);
    }
  };
  takers.talk = take;
  const chosen = find("input[type=file]");
  doing("attach").addEventListener("click", () => chosen.click());
  chosen.addEventListener("change", () => {
    const files = [...chosen.files];
    chosen.value = "";
    if (files.length) take(files);
  });
  doing("camera").addEventListener("click", camera(find(".em-camera"), { ontaken: (file) => take([file]), onproblem: say }));
  doing("no-picture").addEventListener("click", once(async () => {
    try {
      picture((await link.send("show")).picture);
      doing("attach").focus();
    } catch (error) {
      say(error.message);
    }
  }));

  // --- examples --------------------------------------------------------------------------------------------------
  const examples = find(".em-what");
  sheet(examples);
  for (const card of element.querySelectorAll("[data-example]")) {
    card.addEventListener("click", once(async () => {
      if (examples.open) examples.close();
      picture(card.dataset.thumbnail || "");
      await ask("example", { name: card.dataset.example });
    }));
  }
  doing("what").addEventListener("click", () => examples.showModal());

  // --- the rest --------------------------------------------------------------------------------------------------
  const lines = new Lines(box, {
    emotions: emotions.split(" "),
    language,
    fetch: (item, emotion) => link.send("sound", { item, emotion: emotion || null }),
    say,
    more: (line) => drawer_.open("styles", line),
  });
  const drawer_ = drawer(find(".em-drawer"), { link, lines, say });
  document.addEventListener("emova:settings", () => drawer_.open("voice"));
  document.addEventListener("emova:new", once(async () => {
    try {
      await ears.close();
      captions.clear();
      silence();
      await link.send("restart");
      say("");
      text.focus();
    } catch (error) {
      say(error.message);
    }
  }));
  doing("again").addEventListener("click", once(() => ask("again")));
  player.listeners.push(show);
  document.addEventListener("emova:tab", ({ detail }) => {
    if (detail === "talk") return;
    if (ears.mode || ears.opening) ears.cancel();
    silence(); // the words of the answer still come
  });
  addEventListener("pagehide", () => ears.close());
  show();
  glow();
  link.run();
};
