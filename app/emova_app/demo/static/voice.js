// What the page's parts share: a player that can be cut off at once, and a microphone. Nothing is fetched from elsewhere.
window.emova = window.emova || (() => {
  const toBytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  const toBase64 = (samples) => {
    const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
    let text = "";
    for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    return btoa(text);
  };

  // Plays 16-bit PCM as it comes in. `stop` silences what is scheduled at once, not only what would come next.
  class Player {
    constructor() {
      this.sources = [];
      this.chunks = [];
      this.rate = 24000;
      this.open = false; // more may come
      this.what = ""; // what sounds: an answer's item, or anything else that its caller names
      this.listeners = [];
    }

    // Browsers let a page sound only after the user touched it.
    wake() {
      if (!this.context) {
        this.context = new AudioContext({ sampleRate: this.rate });
        this.gain = this.context.createGain();
        this.meter = this.context.createAnalyser();
        this.meter.fftSize = 512;
        this.gain.connect(this.meter).connect(this.context.destination);
      }
      if (this.context.state === "suspended") this.context.resume().catch(() => {});
    }

    onchange() {
      for (const listener of this.listeners) listener();
    }

    begin(what = "") {
      this.stop();
      this.wake();
      this.what = what;
      for (const other of document.querySelectorAll("audio")) other.pause();
      this.chunks = [];
      this.open = true;
      this.end = 0;
      this.lead = 0.12;
    }

    push(bytes, rate) {
      this.rate = rate;
      const samples = new Int16Array(bytes.buffer, 0, bytes.length >> 1);
      this.chunks.push(samples);
      this._schedule(samples);
    }

    _schedule(samples) {
      const buffer = this.context.createBuffer(1, samples.length, this.rate);
      buffer.getChannelData(0).set(Float32Array.from(samples, (value) => value / 32768));
      const source = new AudioBufferSourceNode(this.context, { buffer });
      source.connect(this.gain);
      const now = this.context.currentTime;
      // Late sound waits a little longer, so that the next chunk is in time.
      if (this.end < now) {
        this.end = now + this.lead;
        this.lead = Math.min(0.5, this.lead * 1.5);
      }
      const entry = { source, start: this.end, seconds: buffer.duration };
      source.start(this.end);
      this.end += buffer.duration;
      this.sources.push(entry);
      source.onended = () => {
        entry.over = true;
        this.onchange();
      };
      this.onchange();
    }

    finish() {
      this.open = false;
      this.onchange();
    }

    get sounding() {
      return this.sources.some((entry) => !entry.over);
    }

    // Seconds of this reply that were played; null if it is over.
    heard() {
      if (!this.open && !this.sounding) return null;
      const now = this.context ? this.context.currentTime : 0;
      return this.sources.reduce((sum, { start, seconds }) => sum + Math.min(seconds, Math.max(0, now - start)), 0);
    }

    stop() {
      for (const entry of this.sources) {
        entry.over = true;
        entry.source.onended = null;
        try {
          entry.source.stop();
        } catch (error) {
          // It has ended by itself.
        }
        entry.source.disconnect();
      }
      this.sources = [];
      this.open = false;
      this.onchange();
    }

    // Play sound that is complete.
    play(chunks, rate, what) {
      this.begin(what);
      this.rate = rate;
      this.chunks = chunks;
      chunks.forEach((chunk) => this._schedule(chunk));
      this.finish();
    }

    get seconds() {
      return this.chunks.reduce((sum, chunk) => sum + chunk.length, 0) / this.rate;
    }

    // Sound as a WAV file that never leaves the browser.
    static wav(chunks, rate) {
      const length = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
      const head = new DataView(new ArrayBuffer(44));
      const text = (at, word) => [...word].forEach((letter, index) => head.setUint8(at + index, letter.charCodeAt(0)));
      text(0, "RIFF");
      head.setUint32(4, 36 + length, true);
      text(8, "WAVEfmt ");
      head.setUint32(16, 16, true);
      head.setUint16(20, 1, true);
      head.setUint16(22, 1, true);
      head.setUint32(24, rate, true);
      head.setUint32(28, rate * 2, true);
      head.setUint16(32, 2, true);
      head.setUint16(34, 16, true);
      text(36, "data");
      head.setUint32(40, length, true);
      return new Blob([head.buffer, ...chunks], { type: "audio/wav" });
    }

    level() {
      if (!this.meter || !this.sounding) return 0;
      const values = new Float32Array(this.meter.fftSize);
      this.meter.getFloatTimeDomainData(values);
      return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    }
  }

  const TAP = `registerProcessor("emova-tap", class extends AudioWorkletProcessor {
    constructor() { super(); this.block = new Int16Array(Math.round(sampleRate / 10)); this.filled = 0; }
    process([[channel]]) {
      for (const value of channel || []) {
        this.block[this.filled++] = Math.max(-1, Math.min(1, value)) * 32767;
        if (this.filled === this.block.length) { this.port.postMessage(this.block.slice()); this.filled = 0; }
      }
      return true;
    }
  });`;

  // Why there is no microphone or camera, in words that help.
  const blocked = (error, what) =>
    error && error.name === "NotAllowedError"
      ? `The browser does not let this page use the ${what}: allow it by the sign beside the address.`
      : `No ${what} was found.`;

  // Hands over 16-bit samples in blocks of 0.1 s.
  class Microphone {
    async open(onblock, { rate = 16000, clean = true } = {}) {
      if (!navigator.mediaDevices) throw new Error("The browser gives no microphone to this address; open the page by 127.0.0.1 or HTTPS.");
      try {
        this.stream = await navigator.mediaDevices.getUserMedia({
          audio: { channelCount: 1, echoCancellation: clean, noiseSuppression: clean, autoGainControl: clean },
        });
      } catch (error) {
        throw new Error(`${blocked(error, "microphone")} You can write instead.`);
      }
      try {
        this.context = new AudioContext({ sampleRate: rate });
        this.source = this.context.createMediaStreamSource(this.stream);
      } catch (error) {
        // Not every browser converts a microphone's rate; the server does it then.
        this.context = new AudioContext();
        this.source = this.context.createMediaStreamSource(this.stream);
      }
      this.rate = this.context.sampleRate;
      const address = URL.createObjectURL(new Blob([TAP], { type: "text/javascript" }));
      await this.context.audioWorklet.addModule(address);
      URL.revokeObjectURL(address);
      this.tap = new AudioWorkletNode(this.context, "emova-tap", { numberOfOutputs: 0 });
      this.tap.port.onmessage = ({ data }) => {
        this.level = Math.sqrt(data.reduce((sum, value) => sum + value * value, 0) / data.length) / 32768;
        onblock(data);
      };
      this.source.connect(this.tap);
    }

    close() {
      if (this.tap) this.tap.port.onmessage = null;
      if (this.stream) this.stream.getTracks().forEach((track) => track.stop());
      if (this.context) this.context.close().catch(() => {});
      this.stream = this.context = this.tap = null;
      this.level = 0;
    }
  }

  const join = (blocks) => {
    const whole = new Int16Array(blocks.reduce((sum, block) => sum + block.length, 0));
    let at = 0;
    for (const block of blocks) {
      whole.set(block, at);
      at += block.length;
    }
    return whole;
  };

  const player = new Player();
  for (const kind of ["pointerdown", "keydown"]) document.addEventListener(kind, () => player.wake(), true);
  // One thing sounds at a time.
  document.addEventListener("play", ({ target }) => {
    player.stop();
    for (const other of document.querySelectorAll("audio")) if (other !== target) other.pause();
  }, true);
  return { player, Player, Microphone, toBytes, toBase64, join, blocked };
})();
