document.querySelector(".md-search")?.setAttribute("aria-label", "Search")

// What scrolls sideways can be reached and scrolled by keyboard.
addEventListener("load", () => {
  for (const box of document.querySelectorAll(".md-typeset :is(pre, pre > code, .md-typeset__scrollwrap, .widget, .output, .formula, p)"))
    if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible") box.tabIndex = 0
  // The live page's worker answers the lessons' widgets where there is no Python.
  if (location.protocol !== "file:" && document.querySelector("[data-mg]")) import("./live/kernel.js").catch(() => {})
})
