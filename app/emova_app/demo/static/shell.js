// The page's frame: which tab is seen, and light or dark. Both survive a reload and the back button.
(() => {
  const { roving } = window.emova;
  const THEME = "emova-theme";
  const kept = () => localStorage.getItem(THEME);
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (kept() ? kept() === "dark" : system.matches);

  // Gradio sets the class by the system's choice, later than this script; the visitor's choice stands above it.
  const paint = () => {
    if (document.body.classList.contains("dark") !== dark()) document.body.classList.toggle("dark", dark());
    for (const button of document.querySelectorAll(".em-theme")) {
      button.setAttribute("aria-label", dark() ? "switch to light" : "switch to dark");
    }
  };
  const watchBody = () => {
    paint();
    new MutationObserver(paint).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    system.addEventListener("change", paint);
  };
  if (document.body) watchBody();
  else document.addEventListener("DOMContentLoaded", watchBody);

  window.emova.frame = (element) => {
    const tabs = [...element.querySelectorAll("[role=tab]")];
    const names = tabs.map((tab) => tab.dataset.tab);
    const show = (name, silent = false) => {
      document.body.dataset.tab = name;
      for (const tab of tabs) {
        const chosen = tab.dataset.tab === name;
        tab.setAttribute("aria-selected", chosen);
        tab.tabIndex = chosen ? 0 : -1;
        if (chosen) tab.scrollIntoView({ block: "nearest", inline: "center" });
        const panel = document.getElementById(`panel-${tab.dataset.tab}`);
        if (!panel) continue;
        panel.setAttribute("role", "tabpanel");
        panel.setAttribute("aria-label", tab.textContent.trim());
        panel.inert = !chosen;
        panel.classList.toggle("em-hidden", !chosen);
      }
      for (const button of element.querySelectorAll(".em-talk-only")) button.hidden = name !== "talk";
      document.dispatchEvent(new CustomEvent("emova:tab", { detail: name }));
      if (!silent) window.emova.player.stop();
      for (const sound of document.querySelectorAll("audio")) sound.pause();
    };
    const wanted = () => (names.includes(location.hash.slice(1)) ? location.hash.slice(1) : "talk");
    roving(element.querySelector("[role=tablist]"), "[role=tab]", (tab) => tab.click());
    for (const tab of tabs) {
      tab.addEventListener("click", () => {
        if (wanted() !== tab.dataset.tab) history.pushState(null, "", `#${tab.dataset.tab}`);
        show(tab.dataset.tab);
      });
    }
    addEventListener("popstate", () => show(wanted()));
    addEventListener("hashchange", () => show(wanted()));
    document.addEventListener("click", ({ target }) => {
      if (!target.closest(".em-theme")) return;
      localStorage.setItem(THEME, dark() ? "light" : "dark");
      paint();
    });
    for (const button of element.querySelectorAll("[data-do]")) {
      button.addEventListener("click", () => document.dispatchEvent(new CustomEvent(`emova:${button.dataset.do}`)));
    }
    show(wanted(), true);
    paint();
  };
})();
