// The talk's microphone: pressed or held until what was said is sent, or hands-free. It can always be cancelled.
(() => {
  const { player, Microphone, toBase64, join } = window.emova;
  const MOST_SECONDS = 30;
  const LEAST_BLOCKS = 3; // of 0.1 s

  // `link` sends; `hooks`: hush() silences and tells what was heard, caption(said, draft) has the words so far, forget()
  // them, ask() asks what was heard, change(), say(line).
  class Ears {
    constructor(link, hooks) {
      this.link = link;
      this.hooks = hooks;
      this.mode = null; // "push", "free", or null
      this.microphone = null;
      this.opening = null; // a microphone that the browser has not given yet
      this.hearing = false; // hands-free: somebody speaks
      this.blocks = 0;
      this.waiting = [];
      this.sending = null;
    }

    get level() {
      return (this.mode && this.microphone && this.microphone.level) || 0;
    }

    get seconds() {
      return this.blocks / 10;
    }

    async open(mode) {
      if (this.opening) return;
      if (this.mode) await this.cancel();
      if (this.opening) return;
      const microphone = (this.opening = new Microphone());
      try {
        if (mode === "push") this.hooks.hush();
        this.hooks.say("");
        await microphone.open((block) => this.microphone === microphone && this.take(block));
        if (this.opening !== microphone) return microphone.close(); // cancelled before it was there
        Object.assign(this, { mode, microphone, blocks: 0, hearing: false, waiting: [] });
      } catch (error) {
        microphone.close();
        if (this.opening === microphone) this.hooks.say(error.message);
      } finally {
        if (this.opening === microphone) this.opening = null;
        this.hooks.change();
      }
    }

    take(block) {
      this.blocks += 1;
      this.waiting.push(block);
      this.sending = this.sending || this.deliver();
      this.hooks.change();
      if (this.mode === "push" && this.seconds >= MOST_SECONDS) this.send();
    }

    async deliver() {
      try {
        while (this.waiting.length && this.microphone) {
          const pcm = toBase64(join(this.waiting));
          this.waiting = [];
          const heard = player.heard();
          const microphone = this.microphone;
          const got = await this.link.send("hear", { mode: this.mode, pcm, rate: microphone.rate, heard });
          if (this.microphone !== microphone) continue; // it was closed meanwhile
          if (this.mode !== "free") {
            this.hooks.caption(got.said, got.draft);
            continue;
          }
          if (got.began) this.hooks.hush(false); // the server has interrupted already
          const mine = this.hearing || got.began;
          this.hearing = mine && !got.ended;
          if (mine) this.hooks.caption(got.said, got.draft);
          if (got.ended) this.hooks.ask();
          this.hooks.change();
        }
      } catch (error) {
        this.hooks.say(error.message);
        this.hooks.forget();
        if (this.mode === "push") this.close();
      } finally {
        this.sending = null;
      }
    }

    // What was said is a question now.
    async send() {
      if (this.mode !== "push" || this.ending) return;
      if (this.blocks < LEAST_BLOCKS) {
        await this.cancel();
        return this.hooks.say("That was too short to hear anything. Hold while you speak, or press, speak, press again.");
      }
      this.ending = true;
      this.microphone.tap.port.onmessage = null;
      try {
        while (this.sending || this.waiting.length) await (this.sending || (this.sending = this.deliver()));
        const refused = this.mode !== "push";
        this.close();
        if (!refused) await this.hooks.ask();
      } finally {
        this.ending = false;
      }
    }

    // What was said is forgotten.
    async cancel() {
      this.close();
      this.hooks.forget();
      try {
        while (this.sending) await this.sending;
        await this.link.send("hear", { drop: true });
      } catch (error) {
        this.hooks.say(error.message);
      }
    }

    close() {
      const used = this.microphone;
      Object.assign(this, { mode: null, microphone: null, opening: null, waiting: [], hearing: false, blocks: 0 });
      if (used) used.close();
      this.hooks.change();
    }
  }

  window.emova.Ears = Ears;
  window.emova.MOST_SECONDS = MOST_SECONDS;
})();
