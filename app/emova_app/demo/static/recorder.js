// A button that records, with a timer, a level, and a way out: used by "my voice" and by the tabs with one task each.
(() => {
  const { make, icon, once, player, Microphone, join, toBase64, time } = window.emova;

  // Not every browser's microphone can be had at the wanted rate, and more samples than needed would be too many to send.
  const resampled = async (samples, from, to) => {
    if (from <= to) return { pcm: toBase64(samples), rate: from };
    const context = new OfflineAudioContext(1, Math.ceil((samples.length * to) / from), to);
    const buffer = context.createBuffer(1, samples.length, from);
    buffer.getChannelData(0).set(Float32Array.from(samples, (value) => value / 32768));
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(context.destination);
    source.start();
    const sound = (await context.startRendering()).getChannelData(0);
    return { pcm: toBase64(Int16Array.from(sound, (value) => Math.max(-1, Math.min(1, value)) * 32767)), rate: to };
  };

  // `place` gets the button; `onrecorded` gets `{ pcm, rate }`; `onproblem` a line for the visitor.
  window.emova.recorder = (place, { word, seconds, rate = 16000, clean = true, onrecorded, onproblem }) => {
    let microphone = null;
    let opening = null; // a microphone that the browser has not given yet
    let blocks = [];
    const label = make("b", {}, word);
    const clock = make("span", { class: "em-clock" });
    const fill = make("i", { class: "em-fill" });
    const button = make("button", { type: "button", class: "em-button em-record", "aria-pressed": "false" }, icon("mic"), label, clock);
    const cancel = make("button", { type: "button", class: "em-button", hidden: true, click: () => stop(false) }, icon("x"), "Cancel");
    place.append(make("div", { class: "em-recorder" }, button, cancel, make("div", { class: "em-track", "aria-hidden": "true" }, fill)));

    const show = () => {
      const recorded = blocks.length / 10;
      button.setAttribute("aria-pressed", Boolean(microphone));
      label.textContent = microphone ? "Done" : word;
      clock.textContent = microphone ? `${time(recorded)} / ${time(seconds)}` : "";
      fill.style.transform = `scaleX(${microphone ? recorded / seconds : 0})`;
      cancel.hidden = !microphone;
    };

    const stop = (wanted) => {
      const used = microphone;
      opening = null;
      if (!used) return;
      microphone = null;
      const samples = join(blocks);
      const at = used.rate;
      used.close();
      blocks = [];
      show();
      button.focus();
      if (!wanted) return onproblem("");
      if (samples.length < 0.3 * at) return onproblem("That was too short to hear anything. Press, speak, press again.");
      resampled(samples, at, rate).then((sound) => onrecorded(sound));
    };

    const start = once(async () => {
      player.stop();
      onproblem("");
      const mine = (opening = new Microphone());
      blocks = [];
      try {
        await mine.open(
          (block) => {
            if (microphone !== mine) return;
            blocks.push(block);
            show();
            if (blocks.length >= seconds * 10) stop(true);
          },
          { rate, clean },
        );
        if (opening !== mine) return mine.close(); // cancelled before it was there
        microphone = mine;
      } catch (error) {
        mine.close();
        if (opening === mine) onproblem(error.message);
      }
      opening = null;
      show();
    });

    let last = 0;
    button.addEventListener("click", () => {
      const quick = performance.now() - last < 350; // the second half of a double click
      last = performance.now();
      if (!quick) (microphone ? stop(true) : start());
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !(microphone || opening)) return;
      event.preventDefault(); // a dialog around it stays open
      event.stopPropagation();
      stop(false);
    }, true);
    document.addEventListener("emova:tab", () => stop(false));
    show();
    return { stop: () => stop(false) };
  };
})();
