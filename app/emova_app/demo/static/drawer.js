// The drawer: how to be answered, my voice, one answer in all styles, and what is under its hood.
window.emova.drawer = (dialog, { link, lines, say }) => {
  const { player, roving, recorder, sheet, once, toBytes, make } = window.emova;
  const find = (selector) => dialog.querySelector(selector);
  const tabs = [...dialog.querySelectorAll("[role=tab]")];
  const note = find(".em-drawer-note");
  const styles = JSON.parse(find(".em-styles").dataset.styles);
  let line = null; // the answer that is shown
  let chosen = "voice";
  let showing = 0;

  const tell = (words) => {
    note.textContent = words;
    note.hidden = !words;
  };

  sheet(dialog);
  const enter = roving(find("[role=tablist]"), "[role=tab]", (tab) => tab.click());
  for (const tab of tabs) tab.addEventListener("click", () => choose(tab.dataset.panel));

  function choose(name) {
    chosen = name;
    tell("");
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", tab.dataset.panel === name);
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab.dataset.panel !== name;
      if (tab.dataset.panel === name) enter(tab);
    }
    fill();
  }

  function open(name, wanted = null) {
    line = wanted || lines.newest || null;
    choose(name);
    if (!dialog.open) dialog.showModal();
  }

  // --- how to be answered ----------------------------------------------------------------------------------------
  const wish = () => {
    const word = (name) => dialog.querySelector(`input[name=em-${name}]:checked`).value;
    return { voice: word("voice"), emotion: word("emotion"), pitch: word("pitch") };
  };
  const check = (name, value) => {
    const input = dialog.querySelector(`input[name=em-${name}][value="${value}"]`);
    if (input) input.checked = true;
  };
  const settled = ({ wish: { voice, emotion, pitch }, own }) => {
    have(own);
    check("voice", voice);
    check("emotion", emotion);
    check("pitch", pitch);
  };
  const have = (own) => {
    const mine = dialog.querySelector("input[name=em-voice][value=mine]");
    mine.disabled = !own;
    mine.closest("label").title = own ? "" : "record it below first";
    find("[data-do=forget]").hidden = !own;
  };
  dialog.addEventListener("change", async (event) => {
    if (!event.target.matches("input[type=radio]")) return;
    try {
      await link.send("settle", wish());
      tell("From the next answer on.");
    } catch (error) {
      tell(error.message);
    }
  });

  // --- my voice --------------------------------------------------------------------------------------------------
  const recording = recorder(find(".em-my-voice"), {
    word: "Record 5 seconds",
    seconds: 5,
    rate: 24000,
    clean: false,
    onproblem: tell,
    onrecorded: once(async (sound) => {
      tell("Listening to your voice …");
      try {
        const got = await link.send("own_voice", sound);
        have(true);
        check("voice", "mine");
        tell("It speaks in your voice from now on.");
        document.dispatchEvent(new CustomEvent("emova:hush"));
        player.play([new Int16Array(toBytes(got.pcm).buffer)], got.rate, "my voice");
      } catch (error) {
        tell(error.message);
      }
    }),
  });
  find("[data-do=forget]").addEventListener("click", once(async () => {
    try {
      await link.send("forget_voice");
      have(false);
      if (wish().voice === "mine") check("voice", dialog.querySelector("input[name=em-voice]").value);
      tell("Your voice is forgotten.");
    } catch (error) {
      tell(error.message);
    }
  }));
  dialog.addEventListener("close", () => {
    recording.stop();
    showing += 1;
  });

  // --- one answer ------------------------------------------------------------------------------------------------
  // A new answer while they are open: what is shown is made anew.
  const newAnswer = () => {
    if (!dialog.open || !lines.newest || lines.newest === line) return;
    line = lines.newest;
    fill();
  };

  function fill() {
    showing += 1;
    if (chosen === "styles") cards(showing);
    if (chosen === "hood") hood(showing);
  }

  async function cards(mine) {
    const place = find(".em-styles");
    find(".em-of-styles").textContent = line ? `“${line.words.trim()}”` : "Ask something first: its answer will be here in all styles.";
    const made = styles.map((style) => {
      const button = make(
        "button",
        { type: "button", class: "em-style", disabled: true, "data-style": style.key, "aria-label": `play: ${style.gender}, ${style.emotion}, ${style.pitch} pitch` },
        make("header", {}, make("span", { class: `em-label em-${style.emotion}` }, style.emotion), make("span", {}, `${style.gender}, ${style.pitch}`)),
        make("div", { class: "em-mel em-blank" }),
        make("div", { class: "em-f0 em-blank" }),
      );
      const { emotion, pitch, voice } = (line && line.style) || {};
      button.classList.toggle("em-chosen", emotion === style.emotion && pitch === style.pitch && voice === style.gender);
      return button;
    });
    place.replaceChildren(...(line ? made : []));
    if (!line) return;
    roving(place, ".em-style");
    for (const [at, style] of styles.entries()) {
      if (mine !== showing) return;
      try {
        const got = await link.send("card", { item: line.id, style: style.key });
        if (mine !== showing) return;
        const button = made[at];
        button.querySelectorAll(".em-blank").forEach((blank) => blank.remove());
        button.insertAdjacentHTML("beforeend", got.html); // the server's own drawing
        button.disabled = false;
        const chunks = [new Int16Array(toBytes(got.pcm).buffer)];
        button.addEventListener("click", () => {
          if (player.sounding && player.what === style.key) return player.stop();
          document.dispatchEvent(new CustomEvent("emova:hush"));
          player.play(chunks, got.rate, style.key);
        });
      } catch (error) {
        return tell(error.message);
      }
    }
  }
  player.listeners.push(() => {
    for (const card of dialog.querySelectorAll(".em-style")) {
      card.classList.toggle("em-playing", player.sounding && player.what === card.dataset.style);
    }
  });

  async function hood(mine) {
    const place = find(".em-hood");
    if (!line) {
      place.replaceChildren(make("p", {}, "Ask something: the transcript, units, JSON and timing of its answer will be here."));
      return;
    }
    try {
      const got = await link.send("hood", { item: line.id });
      if (mine === showing) place.innerHTML = got.html; // made and escaped by the server
    } catch (error) {
      tell(error.message);
    }
  }

  return { open, settled, newAnswer };
};
