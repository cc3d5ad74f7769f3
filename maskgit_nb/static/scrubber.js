// Finished runs, step by step. Everything is in the page: no kernel is asked once it is shown.
function curve(parent, run) {
  const w = 220, h = 130, x = share => 30 + (w - 40) * share, y = share => 10 + (h - 34) * (1 - share), last = run.left.length - 1
  const line = (shares, style) => `<polyline fill="none" stroke-width="2" ${style} points="${shares.map((share, i) => `${x(i / (shares.length - 1))},${y(share)}`).join(" ")}"/>`
  const box = element("figure", { className: "mg-curve" }, parent)
  box.innerHTML = `<svg viewBox="0 0 ${w} ${h}" width="${w}" height="${h}" role="img" aria-label="share of tokens left after each step, and gamma">
    <path d="M30 10V${h - 24}H${w - 10}" fill="none" stroke="currentColor"/>${line(run.left, `stroke="currentColor"`)}${line(run.gamma, `stroke="${COLORS.cursor}" stroke-dasharray="4 3"`)}
    <circle r="4" fill="${COLORS.cursor}"/><text x="14" y="16">1</text><text x="14" y="${h - 22}">0</text><text x="30" y="${h - 6}">tokens left (line), gamma (dashes)</text></svg>`
  const dot = box.querySelector("circle")
  return asked => {
    const step = Math.min(asked, last)
    dot.setAttribute("cx", x(step / last)); dot.setAttribute("cy", y(run.left[step]))
  }
}

function row(parent, picture, frames, { grid, size }, name, point) {
  const box = element("div", { className: "mg-row" }, parent)
  const confidence = picture.confidence.map(bytes), cell = size / grid
  const canvases = ["tokens", "picture", "confidence", "decided now"].map(label => panel(box, label, size))
  const [tokens, shown, sure, now] = canvases.map(canvas => canvas.getContext("2d"))
  const text = element("p", { className: "mg-text" }, box, { "aria-live": "polite" })
  focusable(canvases[0], `tokens of ${name}: arrow keys move from token to token`)
  for (const canvas of canvases) cells(canvas, grid, point)

  function draw(asked, cursor) {
    const step = Math.min(asked, frames.length - 1)
    shown.drawImage(frames[step], 0, 0)
    now.fillStyle = COLORS.masked; now.fillRect(0, 0, size, size)
    now.globalAlpha = 0.25; now.drawImage(frames[step], 0, 0); now.globalAlpha = 1
    picture.decided.forEach((when, i) => {
      const x = (i % grid) * cell, y = Math.floor(i / grid) * cell, value = step ? confidence[step - 1][i] : 255
      tokens.fillStyle = COLORS[when === 0 ? "known" : when < step ? "before" : when === step ? "now" : "masked"]
      tokens.fillRect(x, y, cell, cell)
      sure.fillStyle = value < 255 ? cividis(value / 254) : COLORS.known
      sure.fillRect(x, y, cell, cell)
      if (when && when === step) now.drawImage(frames[step], x, y, cell, cell, x, y, cell, cell)
    })
    if (cursor >= 0) for (const canvas of canvases) outline(canvas, cursor, grid)
    text.textContent = cursor < 0 ? `${picture.left[step]} of ${picture.left[0]} tokens left` : about(cursor)
  }

  function about(i) {
    const code = `${place(i, grid)}: code ${picture.codes[i]}`
    if (!picture.decided[i]) return `${code}, known`
    const likeliest = picture.likeliest[i].map(([code, share]) => `${code} (${percent(share / 1000)})`).join(", ")
    return `${code}, probability ${percent(picture.probability[i])}, decided in step ${picture.decided[i]}. Likeliest then: ${likeliest}`
  }
  return draw
}

const decoded = runs => Promise.all(runs.map(run => Promise.all(run.pictures.map(picture => Promise.all(picture.frames.map(loaded))))))

function show(model, root, data, frames) {  // gives what stops it
  const rows = [], marks = []
  root.replaceChildren()
  if (!data.runs?.length) { told(root).textContent = "No run yet."; return () => {} }
  let cursor = -1, timer = null
  const bar = element("div", { className: "mg-bar" }, root)
  const play = button("Play", bar, () => timer ? stop() : start())
  const slider = range("step", bar, { min: 0, max: data.steps, value: data.steps }, step => { stop(); go(step) })
  const status = element("output", {}, bar)
  for (const [n, run] of data.runs.entries()) {
    const box = element("div", { className: "mg-run" }, root)
    if (run.name) element("h4", { textContent: run.name }, box)
    for (const [i, picture] of run.pictures.entries()) rows.push(row(box, picture, frames[n][i], data, `${run.name} ${i + 1}`, i => { cursor = i; draw() }))
    marks.push(curve(box, run))
  }
  legend(root, [["known", COLORS.known], ["decided before", COLORS.before], ["decided now", COLORS.now], ["masked", COLORS.masked], ["least sure", cividis(0)], ["surest", cividis(1)]])

  const draw = () => { for (const row of rows) row(+slider.value, cursor) }
  function go(step) {
    slider.value = step
    status.textContent = step ? `step ${step} of ${data.steps}` : "start"
    slider.setAttribute("aria-valuetext", status.textContent)
    draw()
    for (const mark of marks) mark(step)
    if (model.get("step") !== step) send(model, { step })
  }
  function start() {
    play.textContent = "Pause"
    if (+slider.value === data.steps) go(0)
    timer = setInterval(() => { go(+slider.value + 1); if (+slider.value === data.steps) stop() }, 600)
  }
  function stop() { clearInterval(timer); timer = null; play.textContent = "Play" }
  root.moved = () => { if (model.get("step") !== +slider.value) go(clamp(model.get("step"), 0, data.steps)) }
  go(clamp(model.get("step"), 0, data.steps))
  return stop
}

async function render({ model, el }) {
  const root = element("section", { className: "mg" }, el, { "aria-label": "decoding, step by step" })
  let stop = () => {}
  async function load() {
    const data = model.get("data"), frames = await decoded(data.runs ?? [])
    if (data !== model.get("data")) return  // newer runs came meanwhile
    stop()
    stop = show(model, root, data, frames)
  }
  const deafen = listen(model, { data: load, step: () => root.moved?.() })
  await load()
  return () => { deafen(); stop() }
}

export default { render }
