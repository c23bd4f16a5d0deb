// What the visitor is saying, over the end of the conversation: nothing moves for it. When the turn is over, the words go
// into its bubble, where the transcript takes their place.
(() => {
  const { make } = window.emova;

  class Captions {
    // `box` is seen; `live` is for screen readers, which are told each word once, when it is certain.
    constructor(box, live) {
      Object.assign(this, { box, live });
      this.words = box.querySelector("span");
      this.tail = box.querySelector("i");
      this.clear();
    }

    // `said` stays, `draft` is the word behind it.
    show(said, draft) {
      this.over = false;
      if (this.shown === `${said}|${draft}`) return;
      this.shown = `${said}|${draft}`;
      this.words.textContent = said;
      this.tail.textContent = draft;
      this.box.hidden = !(said || draft);
      const more = said.startsWith(this.told) ? said.slice(this.told.length).trim() : "";
      if (more) this.live.append(make("span", {}, `${more} `));
      this.told = said;
    }

    // The turn is over; the words stand until its bubble takes them.
    end() {
      this.over = true;
    }

    take() {
      const words = this.over ? this.words.textContent + this.tail.textContent : "";
      if (this.over) this.clear();
      return words;
    }

    clear() {
      this.told = "";
      this.live.replaceChildren();
      this.show("", "");
    }
  }

  window.emova.Captions = Captions;
})();
