// Small things that all parts of the page use: elements, groups with one tab stop, uploads, dialogs.
Object.assign(window.emova, (() => {
  // An element: tag, attributes (functions are listeners), children.
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(name, value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };

  const icon = (name) => {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    drawn.setAttribute("aria-hidden", "true");
    drawn.setAttribute("class", "em-i");
    use.setAttribute("href", `#em-i-${name}`);
    drawn.append(use);
    return drawn;
  };

  // Runs `work` unless it is running: a second click does nothing.
  const once = (work) => {
    let running = null;
    return (...given) => (running = running || Promise.resolve(work(...given)).finally(() => (running = null)));
  };

  // Tabs or toolbars as one tab stop: arrows move within.
  const roving = (group, selector, onmove = () => {}) => {
    const all = () => [...group.querySelectorAll(selector)].filter((each) => !each.disabled && each.offsetParent);
    const enter = (chosen) => {
      for (const each of group.querySelectorAll(selector)) each.tabIndex = each === chosen ? 0 : -1;
    };
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
      const items = all();
      const at = items.indexOf(document.activeElement);
      if (step === undefined || at < 0) return;
      event.preventDefault();
      const next = Math.abs(step) === 1 ? (at + step + items.length) % items.length : step < 0 ? 0 : items.length - 1;
      enter(items[next]);
      items[next].focus();
      onmove(items[next]);
    });
    group.addEventListener("focusin", ({ target }) => target.matches(selector) && enter(target));
    enter(group.querySelector(selector));
    return enter;
  };

  const MOST_BYTES = 16 * 1024 * 1024;
  // What a file is, as far as the page can tell; throws what a visitor should know.
  const kindOf = (file) => {
    const kind = (file.type || "").split("/")[0];
    const named = file.name || "the file";
    if (kind === "video") {
      throw new Error(`${named} is a video. It sees pictures and hears sound: take a picture out of it, or only its sound.`);
    }
    if (kind !== "image" && kind !== "audio") {
      throw new Error(`${named} is no picture and no recording. Pictures: PNG, JPEG, WebP, GIF; recordings: WAV, MP3, M4A, OGG, FLAC.`);
    }
    if (file.size > MOST_BYTES) throw new Error(`${named} is larger than 16 MB. Choose a smaller one.`);
    return kind === "image" ? "picture" : "recording";
  };

  // Sends a file; the path by which the server knows it.
  const upload = async (file) => {
    const form = new FormData();
    form.append("files", file, file.name || "upload");
    let answer;
    try {
      answer = await fetch(new URL("gradio_api/upload", document.baseURI), { method: "POST", body: form });
    } catch (error) {
      throw new Error("The file did not arrive: the connection broke off. Try again.");
    }
    if (!answer.ok) {
      const why = await answer.text();
      throw new Error(why.length < 200 ? why[0].toUpperCase() + why.slice(1) : "The file did not arrive. Try again.");
    }
    return (await answer.json())[0];
  };

  // Calls a function of the server; what it refuses is thrown.
  const call = async (server, name, given) => {
    let answer;
    try {
      answer = await server[name](given);
    } catch (error) {
      throw new Error("The connection is lost. It is tried again; you may also load the page again.");
    }
    if (answer && answer.error && !("first" in answer) && !("ended" in answer)) throw new Error(answer.error);
    return answer;
  };

  const save = (blob, name) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  // Files that are pasted or dropped anywhere go to the part of the page that is seen: `takers` by the tab's name.
  const takers = {};
  const give = (files) => {
    const taker = takers[document.body.dataset.tab || "talk"];
    if (taker && files.length) taker(files);
  };
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    give(files);
  });
  let depth = 0;
  const hint = (shown) => document.querySelector(".em-drop").classList.toggle("em-dragging", shown);
  const dragging = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (dragging(event)) hint(++depth > 0);
  });
  document.addEventListener("dragleave", (event) => {
    if (dragging(event)) hint(--depth > 0);
  });
  document.addEventListener("dragover", (event) => dragging(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    depth = 0;
    hint(false);
    if (!dragging(event)) return;
    event.preventDefault();
    give([...event.dataTransfer.files]);
  });

  // A dialog closes by its button, by Esc, and by a click beside it.
  const sheet = (dialog) => {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
    return dialog;
  };

  const time = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

  return { make, icon, once, roving, kindOf, upload, call, save, takers, sheet, time };
})());
