// The tabs with one task each: write down, read aloud, say again in another style.
window.emova.tool = (element, server) => {
  const { player, recorder, call, upload, kindOf, takers, once, make, toBytes } = window.emova;
  const tool = element.querySelector(".em-toolbox");
  const find = (selector) => tool.querySelector(selector);
  const name = tool.dataset.tool;
  const out = find(".em-out");
  const note = find(".em-note");
  let asked = 0;

  const tell = (line, problem = false) => {
    note.textContent = line;
    note.classList.toggle("em-alert", problem);
  };
  const clear = () => {
    player.stop();
    out.replaceChildren();
    for (const more of tool.querySelectorAll(".em-first")) more.remove();
  };
  const style = () => {
    const word = (each) => find(`input[name=${name}-${each}]:checked`).value;
    return { voice: word("voice"), emotion: word("emotion"), pitch: word("pitch") };
  };

  // Only the newest request's answer is shown, and nothing stands there of the one before.
  async function work(waiting, make) {
    const mine = ++asked;
    clear();
    tell(waiting);
    tool.setAttribute("aria-busy", "true");
    try {
      const done = await make(() => mine === asked);
      if (mine === asked && done !== null) tell(done);
    } catch (error) {
      if (mine === asked) tell(error.message, true);
    } finally {
      if (mine === asked) tool.removeAttribute("aria-busy");
    }
  }

  // --- from a recording ------------------------------------------------------------------------------------------
  let units = null; // that were heard, to say them again in another style
  let before = null; // the card of the recording

  const listen = (given, file) =>
    work("Listening …", async (current) => {
      units = null;
      const sent = { ...given };
      if (file) sent.path = await upload(file);
      if (name === "resynthesise") Object.assign(sent, style());
      const got = await call(server, name, sent);
      if (!current()) return null;
      if (got.first) {
        const useFirst = () => {
          find("[data-do=file]").focus(); // this button goes
          listen({ ...given, first: true }, file);
        };
        const first = make("button", { type: "button", class: "em-button em-first", click: useFirst }, `Use the first ${got.first} s`);
        note.after(first);
        throw new Error(`${got.error}.`);
      }
      show(got);
      return "";
    });

  function show(got) {
    units = got.units || null;
    out.innerHTML = name === "resynthesise" ? `<div class="em-sounds">${got.html}</div>` : got.html; // made and escaped by the server
    before = out.querySelector(".em-sound");
  }

  if (find(".em-sources")) {
    recorder(find(".em-record-here"), {
      word: "Record",
      seconds: Number(tool.dataset.seconds),
      onproblem: (line) => tell(line, Boolean(line)),
      onrecorded: (sound) => listen(sound),
    });
    const chosen = find("input[type=file]");
    const take = (files) => {
      try {
        if (kindOf(files[0]) === "picture") throw new Error("That is a picture. Here it takes recordings; show pictures under Talk.");
        listen({}, files[0]);
      } catch (error) {
        asked += 1;
        clear();
        tell(error.message, true);
      }
    };
    takers[name] = take;
    find("[data-do=file]").addEventListener("click", () => chosen.click());
    chosen.addEventListener("change", () => {
      const files = [...chosen.files];
      chosen.value = "";
      if (files.length) take(files);
    });
    find("[data-do=example]").addEventListener("click", once(() => listen({ example: true })));
  }

  if (name === "resynthesise") {
    tool.addEventListener("change", (event) => {
      if (!event.target.matches("input[type=radio]") || !units) return;
      const [kept, card] = [units, before];
      work("Saying it again …", async (current) => {
        const got = await call(server, name, { units: kept, ...style() });
        if (!current()) return null;
        show(got);
        units = kept;
        out.firstElementChild.prepend(card);
        before = card;
        return "";
      });
    });
  }

  // --- from a text -----------------------------------------------------------------------------------------------
  if (name === "speak") {
    const text = find("textarea");
    const speak = () =>
      work("Speaking …", async (current) => {
        if (!text.value.trim()) throw new Error("There is nothing to read aloud yet; write a sentence.");
        const { stream } = await call(server, "speak", { text: text.value, ...style() });
        let position = 0;
        while (true) {
          const got = await call(server, "listen", { stream, position, stop: !current() });
          if (!current()) return null;
          if (got.pcm) {
            if (position === 0) player.begin("reading");
            if (player.what === "reading" && player.open) player.push(toBytes(got.pcm), got.rate);
          }
          position = got.position;
          if (!got.ended) continue;
          if (player.what === "reading" && player.open) player.finish();
          if (got.error) throw new Error(`${got.error}.`);
          out.innerHTML = got.html; // made and escaped by the server
          return "";
        }
      });
    takers.speak = () => tell("Here a text is read aloud. Pictures are shown under Talk; recordings go there or to Transcribe.", true);
    let spoken = false;
    const again = () => ((spoken = true), speak());
    find("[data-do=speak]").addEventListener("click", () => tool.hasAttribute("aria-busy") || again());
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      again();
    });
    // Another style is heard at once.
    tool.addEventListener("change", (event) => event.target.matches("input[type=radio]") && spoken && speak());
    // What was made of another text is not this text's.
    text.addEventListener("input", () => {
      if (out.childElementCount) clear();
      tell("");
      asked += 1;
      spoken = false;
      tool.removeAttribute("aria-busy");
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && document.body.dataset.tab === name) player.stop();
    });
  }
};
