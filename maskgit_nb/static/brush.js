// Paint a hole on a picture. Python hears of it once a stroke; the picture and the hole also work without Python.
const LARGEST = 30e6  // bytes of an uploaded file

function unpack(text, count) {
  const packed = bytes(text)
  return Uint8Array.from({ length: count }, (_, i) => packed[i >> 3] >> (7 - (i & 7)) & 1)
}

function pack(hole) {
  const packed = new Uint8Array(Math.ceil(hole.length / 8))
  hole.forEach((missing, i) => { packed[i >> 3] |= missing << (7 - (i & 7)) })
  return btoa(String.fromCharCode(...packed))
}

async function squared(file, size) {  // a picture file as the PNG of its centred square, in `size` pixels
  if (file.size > LARGEST) throw new Error(`${file.name} is too large: ${(file.size / 1e6).toFixed(0)} MB of at most ${LARGEST / 1e6}`)
  let picture
  try { picture = await createImageBitmap(file) } catch { throw new Error(`${file.name} is not a picture that this browser can read`) }
  let side = Math.min(picture.width, picture.height), left = (picture.width - side) / 2, top = (picture.height - side) / 2
  for (let next = side; ; side = next, left = top = 0) {  // by halves, so that every pixel counts
    next = Math.max(size, Math.ceil(side / 2))
    const canvas = element("canvas", { width: next, height: next }), pen = canvas.getContext("2d")
    pen.imageSmoothingQuality = "high"
    pen.fillStyle = "white"; pen.fillRect(0, 0, next, next)
    pen.drawImage(picture, left, top, side, side, 0, 0, next, next)
    picture = canvas
    if (next === size) return canvas.toDataURL("image/png")
  }
}

async function render({ model, el }) {
  const size = model.get("size"), live = isLive(model)
  const root = element("section", { className: "mg" }, el, { "aria-label": "paint a hole" })
  const canvas = focusable(element("canvas", { className: "mg-canvas", width: size, height: size }, root), "picture with its hole: arrow keys move the brush, space paints")
  const bar = element("div", { className: "mg-bar" }, root), pen = canvas.getContext("2d")
  const message = told(root)
  let hole = unpack(model.get("packed"), size * size), picture, last = null, drawn = 0, radius = 4, painted = 1
  const past = []

  function draw() {
    if (!picture) return
    pen.drawImage(picture, 0, 0, size, size)
    hole.forEach((missing, i) => {  // a checkerboard, which no cat has
      if (missing) { pen.fillStyle = (i + Math.floor(i / size)) % 2 ? COLORS.masked : "#666666"; pen.fillRect(i % size, Math.floor(i / size), 1, 1) }
    })
    if (last) { pen.strokeStyle = COLORS.cursor; pen.beginPath(); pen.arc(...last, radius, 0, 2 * Math.PI); pen.stroke() }
  }
  function dab(x, y) {
    for (let row = 0; row < size; row++) for (let column = 0; column < size; column++)
      if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius) hole[row * size + column] = painted
  }
  function line([x0, y0], [x1, y1]) {
    const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0)))
    for (let i = 0; i <= steps; i++) dab(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps)
  }
  function publish(text = "") {
    draw()
    const share = hole.reduce((sum, missing) => sum + missing, 0) / hole.length
    message.textContent = `${text} ${percent(share)} missing`.trim()
    send(model, { packed: pack(hole) })
  }
  function change(edit) { past.push(hole.slice()); if (past.length > 50) past.shift(); edit() }
  function replace(text, made) { change(() => { hole = made }); publish(text) }

  const at = event => { const box = canvas.getBoundingClientRect(); return [(event.clientX - box.left) / box.width * size, (event.clientY - box.top) / box.height * size] }
  let stroke = false
  canvas.addEventListener("pointerdown", event => {
    event.preventDefault(); canvas.focus()
    canvas.setPointerCapture(event.pointerId)
    stroke = true; last = at(event)
    change(() => dab(...last)); draw()
  })
  canvas.addEventListener("pointermove", event => {
    for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
      const next = at(each)
      if (stroke) line(last, next)
      last = next
    }
    draw()
  })
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { if (stroke) { stroke = false; publish() } })
  canvas.addEventListener("pointerleave", () => { if (!stroke) { last = null; draw() } })
  canvas.addEventListener("keydown", event => {
    const move = { ArrowLeft: [-2, 0], ArrowRight: [2, 0], ArrowUp: [0, -2], ArrowDown: [0, 2] }[event.key]
    if (!move && event.key !== " ") return
    event.preventDefault(); event.stopPropagation()
    last ??= [size / 2, size / 2]
    if (move) { last = last.map((v, axis) => clamp(v + move[axis], 0, size)); draw(); message.textContent = `brush at x ${last[0]}, y ${last[1]}` }
    else { change(() => dab(...last)); publish(painted ? "painted:" : "erased:") }
  })

  if (live) button("Mend", bar, () => { message.textContent = "mending ..."; send(model, { asked: model.get("asked") + 1 }) }).className = "mg-main"
  const erase = button("Erase", bar, () => { painted = 1 - painted; erase.setAttribute("aria-pressed", painted === 0) })
  erase.setAttribute("aria-pressed", "false")
  range("brush", bar, { min: 1, max: 12, value: radius }, value => { radius = value; draw() })
  button("Undo", bar, () => { if (past.length) { hole = past.pop(); publish("undone:") } })
  button("Clear", bar, () => replace("cleared:", new Uint8Array(size * size)))
  button("Invert", bar, () => replace("inverted:", hole.map(missing => 1 - missing)))
  button("Random hole", bar, () => { const all = model.get("random_holes"); replace("random hole:", unpack(all[drawn++ % all.length], size * size)) })
  const file = element("input", { type: "file", accept: "image/*" }, element("label", { textContent: "own picture " }, bar), OWN_KEYS)
  file.addEventListener("change", async () => {
    if (!file.files.length) return
    const chosen = file.files[0]
    file.value = ""  // or the browser is silent when the same file is chosen again
    try { send(model, { picture: await squared(chosen, size) }); message.textContent = `${chosen.name}: cut to a square of ${size} pixels` }
    catch (error) { message.textContent = error.message }
  })

  async function load() {
    const url = model.get("picture"), found = await loaded(url)
    if (url === model.get("picture")) { picture = found; draw() }  // unless a newer one came meanwhile
  }
  const deafen = listen(model, {
    picture: load,
    answered: () => { message.textContent = model.get("message") },
    packed: () => { if (model.get("packed") !== pack(hole)) { hole = unpack(model.get("packed"), size * size); draw() } },
  })
  await load()
  return deafen
}

export default { render }
