// What all widgets of the course share. Python puts this text before each widget's own, so every widget is one module without imports.
const COLORS = { known: "#DDDDDD", before: "#0072B2", now: "#E69F00", masked: "#222222", cursor: "#D55E00", second: "#0072B2" }
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0))
const clamp = (value, low, high) => Math.max(low, Math.min(high, value))

function element(kind, options, parent, attributes = {}) {
  const made = Object.assign(document.createElement(kind), options)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  parent?.append(made)
  return made
}

// JupyterLab takes the keys unless the element that has the focus says that it wants them.
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" }

function button(text, parent, pressed) {
  const made = element("button", { type: "button", textContent: text }, parent, OWN_KEYS)
  made.addEventListener("click", pressed)
  return made
}

function range(label, parent, { min, max, value }, moved) {
  const made = element("input", { type: "range", min, max }, element("label", { textContent: label + " " }, parent), { "aria-label": label, ...OWN_KEYS })
  made.value = value
  made.addEventListener("input", () => moved(+made.value))
  return made
}

function panel(parent, label, size) {
  const box = element("figure", { className: "mg-panel" }, parent)
  const canvas = element("canvas", { width: size, height: size }, box, { role: "img", "aria-label": label })
  element("figcaption", { textContent: label }, box)
  return canvas
}

function legend(parent, entries) {
  const box = element("p", { className: "mg-legend" }, parent)
  for (const [name, color] of entries) element("i", { style: `background:${color}` }, element("span", { textContent: name }, box))
}

// Text that screen readers read out when it changes.
const told = parent => element("p", { className: "mg-told" }, parent, { "aria-live": "polite" })

const loaded = src => new Promise((found, failed) => { const image = new Image(); image.onload = () => found(image); image.onerror = failed; image.src = src })

function cividis(value) {  // three stops of matplotlib's map, dark blue to yellow
  const stops = [[0, 34, 78], [124, 123, 120], [254, 232, 56]], i = value < 0.5 ? 0 : 1, f = 2 * value - i
  return `rgb(${stops[i].map((low, c) => Math.round(low + f * (stops[i + 1][c] - low)))})`
}

function outline(canvas, i, grid, color = COLORS.cursor) {
  const cell = canvas.width / grid, pen = canvas.getContext("2d")
  pen.strokeStyle = color
  pen.strokeRect((i % grid) * cell + 0.5, Math.floor(i / grid) * cell + 0.5, cell - 1, cell - 1)
}

function cellAt(canvas, event, grid) {
  const box = canvas.getBoundingClientRect(), place = share => clamp(Math.floor(share * grid), 0, grid - 1)
  return place((event.clientY - box.top) / box.height) * grid + place((event.clientX - box.left) / box.width)
}

function cellBeside(i, key, grid) {  // null unless it is an arrow key
  const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[key]
  if (!move) return null
  return clamp(Math.floor(i / grid) + move[0], 0, grid - 1) * grid + clamp(i % grid + move[1], 0, grid - 1)
}

// `point(i)` for the cell under the pointer or moved to by arrow keys, -1 when the pointer leaves; `press(i)` for a click, Enter or space.
function cells(canvas, grid, point, press = () => {}) {
  let at = -1
  const go = i => { if (i !== at) { at = i; point(i) } }
  canvas.addEventListener("pointermove", event => go(cellAt(canvas, event, grid)))
  canvas.addEventListener("pointerleave", () => go(-1))
  canvas.addEventListener("click", event => press(cellAt(canvas, event, grid)))
  canvas.addEventListener("keydown", event => {
    const beside = cellBeside(Math.max(at, 0), event.key, grid)
    if (beside === null && !["Enter", " "].includes(event.key)) return
    event.preventDefault(); event.stopPropagation()
    if (beside === null) press(Math.max(at, 0)); else go(at < 0 ? 0 : beside)
  })
}

function focusable(canvas, label) {
  canvas.tabIndex = 0
  for (const [name, value] of Object.entries({ role: "application", "aria-label": label, ...OWN_KEYS })) canvas.setAttribute(name, value)
  return canvas
}

const place = (i, grid) => `row ${Math.floor(i / grid)}, column ${i % grid}`
const percent = share => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`
const isLive = model => !model.standalone && model.get("live")

function send(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value)
  model.save_changes()
}

// Hear of the model's changes, by name, until the function that this returns is called: anywidget calls what `render` returns when a widget goes.
function listen(model, listeners) {
  for (const [name, listener] of Object.entries(listeners)) model.on("change:" + name, listener)
  return () => { for (const [name, listener] of Object.entries(listeners)) model.off("change:" + name, listener) }
}

// In a page without a kernel: the same five calls as the notebook's model.
function standalone(state) {
  const listeners = {}
  return {
    standalone: true,
    get: name => state[name],
    set(name, value) { if (state[name] !== value) { state[name] = value; listeners["change:" + name]?.forEach(listener => listener()) } },
    save_changes() {},
    on(event, listener) { (listeners[event] ??= new Set()).add(listener) },
    off(event, listener) { listeners[event]?.delete(listener) },
  }
}
