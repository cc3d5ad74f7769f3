// Where each head of each layer looks, from the token that is chosen. All maps are in the page, 16 levels a number.
async function inflate(text) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

async function render({ model, el }) {
  const { grid, layers, heads, masked } = model.get("data"), N = grid * grid
  const [picture, maps] = await Promise.all([loaded(model.get("data").picture), inflate(model.get("data").maps)])
  const peaks = bytes(model.get("data").peaks), size = picture.width, cell = size / grid
  const root = element("section", { className: "mg" }, el, { "aria-label": "attention" })
  const box = element("div", { className: "mg-run" }, root)
  const main = panel(box, "choose a token", size)
  main.parentElement.classList.add("mg-large")
  focusable(main, "picture: arrow keys choose a token")
  const views = element("div", {}, box), panels = []
  for (let layer = 0; layer < layers; layer++) {
    const line = element("div", { className: "mg-row" }, views)
    for (let head = 0; head < heads; head++) panels.push(panel(line, `layer ${layer + 1}, head ${head + 1}`, size))
  }
  const message = told(root)
  element("p", { className: "mg-legend", textContent: "The yellower a place, the more of the head's attention it gets; the largest share that one token gets is written below." }, root)

  function draw(chosen) {
    const pen = main.getContext("2d")
    pen.drawImage(picture, 0, 0)
    outline(main, chosen, grid)
    panels.forEach((canvas, i) => {
      const pen = canvas.getContext("2d"), start = (i * N + chosen) * N, peak = peaks[i * N + chosen] / 255
      pen.drawImage(picture, 0, 0)
      pen.globalAlpha = 0.75
      for (let j = 0; j < N; j++) {
        pen.fillStyle = cividis(maps[start + j] / 15)
        pen.fillRect((j % grid) * cell, Math.floor(j / grid) * cell, cell, cell)
      }
      pen.globalAlpha = 1
      outline(canvas, chosen, grid)
      canvas.nextSibling.textContent = `${Math.floor(i / heads) + 1}.${i % heads + 1}: ${percent(peak)}`
    })
    message.textContent = `Token at ${place(chosen, grid)}, ${masked[chosen] ? "masked" : "known"}`
  }
  const choose = i => { if (i >= 0) { draw(i); send(model, { token: i }) } }
  cells(main, grid, choose, choose)
  draw(model.get("token"))
  return listen(model, { token: () => draw(model.get("token")) })
}

export default { render }
