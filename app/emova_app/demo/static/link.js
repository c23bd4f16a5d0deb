// The page's line to the server: a place, and the Realtime events of its conversation, in order and without gaps.
// What the server knows it by lies in this tab's session storage, so a reload and the back button find it again.
(() => {
  const { call } = window.emova;
  const TICKET = "emova-ticket";
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  class Link extends EventTarget {
    constructor(server) {
      super();
      this.server = server;
      this.ticket = null;
      this.place = null; // in the line
    }

    // Calls a function of the server in the name of this page.
    send(name, given = {}) {
      if (!this.ticket) throw new Error("There is no place yet; one moment.");
      return call(this.server, name, { ticket: this.ticket, ...given });
    }

    // Takes a place, waits in the line for one if need be, and then tells each event until the conversation ends.
    async run() {
      let ticket = sessionStorage.getItem(TICKET);
      while (true) {
        let entered;
        try {
          entered = await call(this.server, "enter", { ticket, name: this.place });
        } catch (error) {
          this.tell("trouble", error.message);
          await pause(2000);
          continue;
        }
        if (!entered.waiting) {
          this.place = null;
          return this.follow(entered, ticket !== null && ticket !== entered.ticket);
        }
        this.place = entered.name;
        this.tell("waiting", entered);
        await pause(1500);
      }
    }

    async follow(entered, lost) {
      this.ticket = entered.ticket;
      sessionStorage.setItem(TICKET, entered.ticket);
      this.tell("entered", { ...entered, lost });
      let after = 0;
      let failed = 0;
      while (this.ticket === entered.ticket) {
        let got;
        try {
          got = await call(this.server, "receive", { ticket: entered.ticket, owner: entered.owner, after });
        } catch (error) {
          failed += 1;
          if (failed > 1) this.tell("trouble", "The connection is lost. It is tried again …");
          await pause(Math.min(5000, 300 * 2 ** failed));
          continue;
        }
        if (got.ended) {
          this.ticket = null;
          if (got.ended === "closed") sessionStorage.removeItem(TICKET);
          return this.tell("ended", got);
        }
        if (failed > 1) this.tell("trouble", "");
        failed = 0;
        for (const event of got.events) {
          // What came before the page was loaded is shown, and does not sound.
          const number = Number(event.event_id.slice(6));
          this.tell("event", { event, old: number <= entered.last });
        }
        after = got.last;
      }
    }

    tell(kind, detail) {
      this.dispatchEvent(new CustomEvent(kind, { detail }));
    }
  }

  window.emova.Link = Link;
})();
