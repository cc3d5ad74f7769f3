// The codes as a map; where one occurs; and, with Python, what changes when it stands at another place.
async function render({ model, el }) {
  const { side, order, counts, pictures, grid } = model.get("data"), live = isLive(model)
  const sheet = await loaded(model.get("data").sheet), frames = await Promise.all(pictures.map(({ png }) => loaded(png)))
  const root = element("section", { className: "mg" }, el, { "aria-label": "codebook" })
  const bar = element("div", { className: "mg-bar" }, root), box = element("div", { className: "mg-run" }, root)
  const cellOf = new Map(order.map((code, cell) => [code, cell])), most = Math.max(...counts)
  const map = panel(box, `${order.length} codes, dark to light`, sheet.width)
  map.parentElement.classList.add("mg-map")
  focusable(map, "map of the codes: arrow keys move, Enter chooses")
  const panels = frames.map((frame, i) => {
    const canvas = panel(box, "", frame.width)
    canvas.parentElement.style.width = "192px"
    Object.assign(canvas.style, { width: "192px", height: "192px" })
    return focusable(canvas, `picture ${i + 1}: arrow keys move, Enter chooses a place`)
  })
  const message = told(root), answer = element("div", { className: "mg-row" }, root)
  let code = model.get("code"), spot = null

  let byFrequency = false
  const frequency = button("Show how often", bar, () => { byFrequency = !byFrequency; frequency.setAttribute("aria-pressed", byFrequency); draw() })
  frequency.setAttribute("aria-pressed", "false")
  const swap = live ? button("Put the code at the chosen place", bar, () => {
    message.textContent = "decoding ..."
    send(model, { swap: { ...spot, code, asked: (model.get("swap").asked ?? 0) + 1 } })
  }) : null

  function draw(pointed = -1) {
    const pen = map.getContext("2d"), cell = sheet.width / side
    pen.drawImage(sheet, 0, 0)
    if (byFrequency) order.forEach((code, i) => { pen.fillStyle = cividis(Math.sqrt(counts[code] / most)); pen.fillRect((i % side) * cell, Math.floor(i / side) * cell, cell, cell) })
    if (pointed >= 0) outline(map, pointed, side, COLORS.before)
    outline(map, cellOf.get(code), side)
    panels.forEach((canvas, i) => {
      const pen = canvas.getContext("2d"), size = canvas.width, cell = size / grid
      pen.drawImage(frames[i], 0, 0)
      pen.fillStyle = "rgba(0,0,0,.7)"
      pictures[i].tokens.forEach((token, j) => { if (token !== code) pen.fillRect((j % grid) * cell, Math.floor(j / grid) * cell, cell, cell) })
      if (spot?.picture === i) outline(canvas, spot.place, grid)
      const found = pictures[i].tokens.filter(token => token === code).length
      canvas.nextSibling.textContent = `picture ${i + 1}: ${found} times`
    })
    if (swap) swap.disabled = !spot
  }
  const about = code => `code ${code}: ${counts[code]} times in the sample (${percent(counts[code] / counts.reduce((a, b) => a + b, 0))})`
  function choose(next) {
    code = next
    message.textContent = "Chosen " + about(code) + (spot ? `; place: picture ${spot.picture + 1}, ${place(spot.place, grid)}` : "")
    send(model, { code })
    draw()
  }
  cells(map, side, i => { draw(i); if (i >= 0) message.textContent = about(order[i]) }, i => choose(order[i]))
  panels.forEach((canvas, i) => cells(canvas, grid,
    j => { draw(); if (j >= 0) { outline(canvas, j, grid, COLORS.before); message.textContent = `${place(j, grid)}: ${about(pictures[i].tokens[j])}` } },
    j => {  // the first click takes the code there; with a place chosen, the map chooses what to put
      spot = { picture: i, place: j }
      choose(pictures[i].tokens[j])
    }))

  async function show() {
    const number = model.get("answered"), images = Object.entries(model.get("answer"))
    const pictures = await Promise.all(images.map(([, png]) => loaded(png)))
    if (number !== model.get("answered")) return  // a newer answer came meanwhile
    answer.replaceChildren()
    images.forEach(([label], i) => panel(answer, label, pictures[i].width).getContext("2d").drawImage(pictures[i], 0, 0))
    message.textContent = model.get("message")
  }
  choose(code)
  return listen(model, { answered: show })
}

export default { render }
