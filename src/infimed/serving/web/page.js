"use strict";
// What Gradio has no setting for: scrolling through slices, a key that asks, and texts that a keyboard and a screen
// reader reach. Sets attributes, values and textContent; never HTML.
(() => {
  const shown = (part) => part !== null && part.getClientRects().length > 0;

  // The mouse wheel and the arrow keys move through the images of a file.
  const scroll = (steps) => {
    const slider = document.querySelector("#frame input[type=range]");
    if (!shown(slider)) return false;
    const least = Number(slider.min), most = Number(slider.max);
    const next = Math.min(most, Math.max(least, Number(slider.value) + steps));
    if (next !== Number(slider.value)) {
      slider.value = String(next);
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    }
    return true;
  };
  let turned = 0;
  document.addEventListener("wheel", (event) => {
    if (!event.target.closest("#picture") || event.ctrlKey) return;
    turned += event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY;
    const steps = Math.trunc(turned);
    if (!scroll(steps)) return;
    turned -= steps;
    event.preventDefault();
  }, { passive: false });
  const moves = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e6, End: 1e6 };
  document.addEventListener("keydown", (event) => {
    if (event.target.id === "picture" && event.key in moves && scroll(moves[event.key])) event.preventDefault();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const go = [...document.querySelectorAll("button.go")].find(shown);
      if (go) { event.preventDefault(); go.click(); }
    }
  });

  // Gradio hears of a change by the key that is pressed; of one by Backspace, by pasting or by a phone's keyboard it would
  // not hear, and what was deleted would be saved.
  document.addEventListener("input", (event) => {
    if (event.target.matches(".written textarea:not([readonly])")) {
      event.target.dispatchEvent(new KeyboardEvent("keypress", { bubbles: true }));
    }
  });

  // Gradio disables a text that cannot be edited; read-only text can be reached, selected and read aloud.
  const status = document.createElement("div");
  status.setAttribute("role", "status");
  status.className = "unseen";
  document.body.append(status);
  let writing = false;
  const settle = () => {
    for (const text of document.querySelectorAll("textarea:disabled, input[type=text]:disabled")) {
      text.disabled = false;
      text.readOnly = true;
    }
    for (const problem of document.querySelectorAll(".problem:not([role])")) problem.setAttribute("role", "alert");
    for (const notice of document.querySelectorAll(".notice:not([role])")) notice.setAttribute("role", "status");
    // A link that saves must not leave the page: leaving ends the session, and its images are forgotten.
    for (const link of document.querySelectorAll(".downloads a:not([download])")) link.download = "";
    const picture = document.querySelector("#picture:not([tabindex])");
    if (picture) {
      picture.tabIndex = 0;
      picture.setAttribute("aria-label", "The chosen image. Arrow keys move through the images of its file.");
    }
    const now = [...document.querySelectorAll("button.stop")].some(shown);
    if (now !== writing) status.textContent = now ? "The answer is being written." : "The answer is complete.";
    writing = now;
  };
  new MutationObserver(settle).observe(document.body, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["disabled", "class", "hidden", "style"],
  });
  settle();
})();
