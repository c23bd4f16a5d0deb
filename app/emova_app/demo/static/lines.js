// The conversation's bubbles. They are only ever added at the end or filled, so a screen reader is told what is new.
(() => {
  const { make, icon, once, player, Player, toBytes, save } = window.emova;
  const EMOJI = { happy: "😊", sad: "😢", angry: "😠", neutral: "😐" };

  class Lines {
    // `emotions`: those of the model; `language`: in which it answers; `fetch(item, emotion)` gives `{ pcm, rate }`.
    constructor(box, { emotions, language, fetch, say, again, more }) {
      Object.assign(this, { box, emotions, language, fetch, say, again, more });
      this.lines = new Map();
      player.listeners.push(() => this.sounding());
      // A phone that is turned, a keyboard that comes up: the newest stays in view.
      this.near = true;
      box.addEventListener("scroll", () => (this.near = box.scrollHeight - box.scrollTop - box.clientHeight < 160));
      new ResizeObserver(() => this.follow(this.near)).observe(box);
    }

    get empty() {
      return this.lines.size === 0;
    }

    get newest() {
      return [...this.lines.values()].filter((line) => line.role === "assistant" && line.whole).pop();
    }

    // `draft`: the words of a spoken question, as they were read while it was spoken.
    add(item, draft = "") {
      if (this.lines.has(item.id)) return this.fill(item);
      const near = this.near;
      const text = make("p", { dir: "auto", lang: item.role === "assistant" && this.language ? this.language : null });
      const tools = make("footer");
      const bubble = make(
        "article",
        { class: `em-line em-${item.role}`, "aria-label": item.role === "user" ? "You" : "emova", "data-item": item.id },
        text,
        tools,
      );
      const line = { id: item.id, role: item.role, bubble, text, tools, words: "", draft, sounds: new Map(), rate: 24000 };
      this.lines.set(item.id, line);
      if (item.role === "assistant" && item.status === "in_progress") {
        bubble.setAttribute("aria-busy", "true");
        text.append(make("span", { class: "em-dots", role: "img", "aria-label": "one moment" }, make("i"), make("i"), make("i")));
      }
      this.fill(item);
      this.box.append(bubble);
      this.follow(near || item.role === "user");
    }

    // What is known of an item by now.
    fill(item) {
      const line = this.lines.get(item.id);
      if (!line) return this.add(item);
      const picture = item.content.find((part) => part.type === "input_image");
      if (picture && !line.picture) {
        line.picture = make("img", { class: "em-thumb", src: picture.image_url, alt: "the picture that was shown" });
        line.bubble.prepend(line.picture);
      }
      const said = item.content.find((part) => part.type !== "input_image");
      if (said) {
        line.spoken = said.type === "input_audio";
        const words = said.transcript ?? said.text ?? "";
        if (words || item.status !== "in_progress") this.write(line, words);
      }
      if (item.role === "assistant" && item.status !== "in_progress") this.finish(line, item);
    }

    append(id, delta) {
      const line = this.lines.get(id);
      if (line) this.write(line, line.words + delta);
    }

    write(line, words) {
      const near = this.near;
      line.words = words;
      const mark = line.spoken ? [make("span", { class: "em-spoken", role: "img", "aria-label": "spoken" }, icon("mic"))] : [];
      // The draft stands behind the transcript as far as it goes on: each word is put in the place of one.
      const written = words.trim() ? words.trim().split(/\s+/).length : 0;
      const rest = line.draft.split(/\s+/).slice(written).join(" ");
      const shown = words.trim() || (line.spoken && line.role === "user" && !rest ? "…" : "");
      const tail = rest ? [make("span", { class: "em-tail", "aria-hidden": "true" }, shown ? ` ${rest}` : rest)] : [];
      line.text.replaceChildren(...mark, shown, ...tail);
      this.follow(near);
    }

    // What was said is written down: nothing is a draft any more.
    settle() {
      for (const line of this.lines.values()) {
        if (!line.draft) continue;
        line.draft = "";
        this.write(line, line.words);
      }
    }

    finish(line, item) {
      line.bubble.removeAttribute("aria-busy");
      if (line.whole) return;
      line.whole = true;
      line.style = item.style || {};
      const { emotion, pitch, voice } = line.style;
      const labels = [];
      if (emotion) labels.push(make("span", { class: `em-label em-${emotion}` }, emotion));
      if (pitch) labels.push(make("span", { class: "em-label" }, `${pitch} pitch`));
      if (voice) labels.push(make("span", { class: "em-label" }, voice === "mine" ? "my voice" : voice));
      if (item.status === "incomplete") labels.push(make("span", { class: "em-label em-state" }, "interrupted"));
      const tools = [make("div", { class: "em-labels" }, ...labels)];
      if (item.status !== "incomplete") tools.push(this.toolbar(line));
      line.tools.replaceChildren(...tools);
      this.follow(true);
    }

    toolbar(line) {
      const button = (name, label, work, ...inside) => {
        const made = make("button", { type: "button", class: "em-tool", title: label, "aria-label": label, click: once(work) }, ...inside);
        made.dataset.do = name;
        return made;
      };
      const hear = this.emotions
        .filter((emotion) => emotion !== line.style.emotion && emotion !== "neutral")
        .map((emotion) =>
          button(`hear-${emotion}`, `hear it ${emotion}`, () => this.play(line, emotion), make("span", { "aria-hidden": "true" }, EMOJI[emotion] || "♪"), make("span", {}, emotion)),
        );
      const bar = make(
        "div",
        { class: "em-tools", role: "toolbar", "aria-label": "this answer" },
        button("replay", "hear it again", () => this.play(line), icon("play")),
        button("copy", "copy the words", () => this.copy(line), icon("copy")),
        button("save", "save the sound (WAV)", () => this.save(line), icon("save")),
        make("span", { class: "em-hear" }, make("span", {}, "hear it"), ...hear),
        button("more", "more of this answer: all styles, under the hood", () => this.more(line), icon("more")),
      );
      requestAnimationFrame(() => window.emova.roving(bar, "button"));
      return bar;
    }

    // --- sound --------------------------------------------------------------------------------------------------------
    // The sound of an answer that was just played is here; any other is asked for.
    keep(id, chunks, rate) {
      const line = this.lines.get(id);
      if (line) Object.assign(line, { rate }).sounds.set("", chunks);
      // Of what was said long ago, the sound is asked for again.
      for (const old of [...this.lines.values()].slice(0, -24)) old.sounds.clear();
    }

    async sound(line, emotion = "") {
      if (!line.sounds.has(emotion)) {
        const got = await this.fetch(line.id, emotion);
        line.rate = got.rate;
        line.sounds.set(emotion, [new Int16Array(toBytes(got.pcm).buffer)]);
        if (line.sounds.size > 4) line.sounds.delete([...line.sounds.keys()].find((kept) => kept !== emotion));
      }
      return line.sounds.get(emotion);
    }

    async play(line, emotion = "") {
      const what = `${line.id} ${emotion}`;
      if (player.sounding && player.what === what) return player.stop();
      try {
        const chunks = await this.sound(line, emotion);
        this.say("");
        document.dispatchEvent(new CustomEvent("emova:hush"));
        player.play(chunks, line.rate, what);
      } catch (error) {
        this.say(error.message);
      }
    }

    sounding() {
      const [item, emotion] = player.sounding ? player.what.split(" ") : [];
      for (const line of this.lines.values()) {
        line.bubble.classList.toggle("em-sounding", line.id === item);
        for (const tool of line.tools.querySelectorAll("[data-do=replay], [data-do^=hear]")) {
          const mine = line.id === item && tool.dataset.do === (emotion ? `hear-${emotion}` : "replay");
          tool.setAttribute("aria-pressed", mine);
        }
      }
    }

    async copy(line) {
      try {
        await navigator.clipboard.writeText(line.words.trim());
        this.say("Copied.", true);
      } catch (error) {
        this.say("The browser does not let this page copy; mark the words and press Ctrl+C.");
      }
    }

    async save(line) {
      try {
        const chunks = await this.sound(line);
        const name = line.words.trim().toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 40).replace(/^-|-$/g, "");
        save(Player.wav(chunks, line.rate), `emova-${name || "answer"}.wav`);
      } catch (error) {
        this.say(error.message);
      }
    }

    // --- order --------------------------------------------------------------------------------------------------------
    remove(id) {
      const line = this.lines.get(id);
      if (line) line.bubble.remove();
      this.lines.delete(id);
    }

    topic() {
      if (this.empty || this.box.lastElementChild.classList.contains("em-topic")) return;
      this.box.append(make("p", { class: "em-topic" }, "A new topic. What was said before is not remembered."));
    }

    clear() {
      this.lines.clear();
      this.box.replaceChildren();
    }

    follow(wanted) {
      this.near = this.near || wanted;
      if (wanted) this.box.scrollTop = this.box.scrollHeight;
    }
  }

  window.emova.Lines = Lines;
})();
