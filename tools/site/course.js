document.querySelector(".md-search")?.setAttribute("aria-label", "Search")

// What scrolls sideways can be reached and scrolled by keyboard.
addEventListener("load", () => {
  for (const box of document.querySelectorAll(".md-typeset pre > code, .md-typeset pre, .md-typeset__scrollwrap, .widget"))
    if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible") box.tabIndex = 0
})
