// Choose a gamma or draw one; see what it makes of the tokens, step by step, and of one picture.
function maskCounts(shares, n, steps) {  // as `mask_counts` in Python; `shares` are gamma at 1/steps, 2/steps, ... 1
  const counts = []
  for (let t = 1, left = n; t <= steps; t++) {
    const wanted = t < steps ? Math.floor(shares[t - 1] * n + 1e-9) : 0
    const most = Math.max(0, left - 1), least = Math.max(0, Math.min(left - 1, steps - t))
    counts.push(left = Math.min(most, Math.max(least, wanted)))
  }
  return counts
}

function between(points, r) {  // straight lines between points at equal distances
  const at = r * (points.length - 1), i = Math.min(points.length - 2, Math.floor(at)), f = at - i
  return points[i] + f * (points[i + 1] - points[i])
}

const W = 340, H = 220, X = r => 34 + (W - 50) * r, Y = share => 10 + (H - 44) * (1 - share)

function render({ model, el }) {
  const gammas = model.get("gammas"), n = model.get("tokens")
  const live = isLive(model)
  const root = element("section", { className: "mg" }, el, { "aria-label": "schedules" })
  const bar = element("div", { className: "mg-bar" }, root)
  const name = element("select", {}, element("label", { textContent: "gamma " }, bar), OWN_KEYS)
  for (const option of [...Object.keys(gammas), "drawn"]) element("option", { textContent: option, value: option }, name)
  const steps = range("steps", bar, { min: 1, max: model.get("most_steps"), value: model.get("steps") }, () => draw())
  steps.addEventListener("change", () => update({ steps: +steps.value }))
  const box = element("div", { className: "mg-run" }, root), figure = element("div", {}, box), table = element("table", {}, box)
  const result = element("figure", { className: "mg-panel mg-large" }, box)
  const message = told(root)
  figure.innerHTML = `<svg viewBox="0 0 ${W} ${H}" width="${W}" height="${H}" style="touch-action:none" aria-label="gamma: drag its points, or move to one and press the arrow keys up and down">
    <path d="M34 10V${H - 34}H${W - 16}" fill="none" stroke="currentColor"/><text x="20" y="16">1</text><text x="20" y="${H - 32}">0</text>
    <text x="34" y="${H - 20}">line: gamma; bars: share still masked after each step</text>
    <text x="34" y="${H - 6}">drag the points to draw your own</text><g class="bars"></g>
    <polyline fill="none" stroke="${COLORS.cursor}" stroke-width="2.5"/><g class="points"></g></svg>`
  const svg = figure.querySelector("svg"), curve = svg.querySelector("polyline"), bars = svg.querySelector(".bars"), dots = svg.querySelector(".points")
  const handles = model.get("points").map((_, i) => {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle")
    const attributes = { r: 7, fill: COLORS.second, tabindex: 0, role: "slider", "aria-label": `gamma at ${i} of ${model.get("points").length - 1}`, "aria-valuemin": 0, "aria-valuemax": 1, ...OWN_KEYS }
    for (const [key, value] of Object.entries(attributes)) dot.setAttribute(key, value)
    dot.addEventListener("keydown", event => {
      const change = { ArrowUp: 0.05, ArrowRight: 0.05, ArrowDown: -0.05, ArrowLeft: -0.05 }[event.key]
      if (change) { event.preventDefault(); event.stopPropagation(); bend(i, shown()[i] + change); save() }
    })
    dots.append(dot)
    return dot
  })

  const gamma = r => name.value === "drawn" ? between(points, r) : between(gammas[name.value].curve, r)
  const shown = () => handles.map((_, i) => gamma(i / (handles.length - 1)))
  let points = model.get("points"), dragged = -1

  function bend(i, share) {
    points = shown()
    points[i] = Math.round(1000 * clamp(share, 0, 1)) / 1000
    name.value = "drawn"
    draw()
  }
  const save = () => update({ points, schedule: name.value })
  svg.addEventListener("pointerdown", event => { dragged = handles.indexOf(event.target); if (dragged >= 0) svg.setPointerCapture(event.pointerId) })
  svg.addEventListener("pointermove", event => {
    if (dragged < 0) return
    const box = svg.getBoundingClientRect(), y = (event.clientY - box.top) / box.height * H
    bend(dragged, 1 - (y - 10) / (H - 44))
  })
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { if (dragged >= 0) { dragged = -1; save() } })
  name.addEventListener("change", () => update({ schedule: name.value }))

  function draw() {
    const T = +steps.value, ticks = Array.from({ length: T }, (_, i) => (i + 1) / T)
    const shares = name.value === "drawn" ? ticks.map(gamma) : gammas[name.value].at[T - 1]
    const counts = maskCounts(shares, n, T), fine = Array.from({ length: 65 }, (_, i) => i / 64)
    curve.setAttribute("points", fine.map(r => `${X(r)},${Y(gamma(r))}`).join(" "))
    const width = (W - 50) / T
    bars.innerHTML = counts.map((left, i) => `<rect x="${X(i / T) + 1}" width="${width - 2}" y="${Y(left / n)}" height="${Y(0) - Y(left / n)}" fill="${COLORS.before}" fill-opacity=".6"/>`).join("")
    shown().forEach((share, i) => {
      handles[i].setAttribute("cx", X(i / (handles.length - 1))); handles[i].setAttribute("cy", Y(share))
      handles[i].setAttribute("aria-valuenow", share.toFixed(2))
    })
    table.innerHTML = "<tr><th scope=col>step</th><th scope=col>still masked</th><th scope=col>revealed</th></tr>" +
      counts.map((left, i) => `<tr><td>${i + 1}</td><td>${left}</td><td>${(i ? counts[i - 1] : n) - left}</td></tr>`).join("")
    return counts
  }
  const key = () => `${name.value}, ${steps.value}`
  function update(values) {
    const fresh = values.points || !model.get("results")[key()]  // a drawn curve is another every time
    send(model, live && fresh ? { ...values, asked: model.get("asked") + 1 } : values)
    const counts = draw()
    message.textContent = `${name.value} in ${counts.length} ${counts.length > 1 ? "steps" : "step"}: ${counts.join(", ")} left of ${n}`
    mended(live && fresh)
  }
  function mended(waiting = false) {
    const picture = waiting ? "" : model.get("results")[key()], text = `${key()} ${steps.value === "1" ? "step" : "steps"}`
    result.replaceChildren()
    if (picture) element("img", { src: picture, alt: `mended by ${text}`, width: 192, height: 192, style: "image-rendering:pixelated" }, result)
    const failed = !waiting && model.get("message"), without = "in a page without Python: mended in 8 steps by a gamma of the list"
    const told = picture ? text : live ? failed || "mending ..." : without
    if (Object.keys(model.get("results")).length) element("figcaption", { textContent: told }, result)
  }
  name.value = model.get("schedule")
  draw(); mended()
  return listen(model, { answered: () => mended() })
}

export default { render }
