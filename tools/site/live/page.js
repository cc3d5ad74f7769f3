// The live page: a picture, a brush, the settings of `inpaint`, and every step of the mending as it is made.
import { button, element, range, render as brush, send, standalone, told } from "./brush.js"
import { SCHEDULES } from "./live.js"
import { Mender, obstacle, record, toCanvas, toPixels, unpackHole } from "./mender.js"
import { render as scrubber } from "./scrubber.js"

const DEFAULTS = { steps: 8, schedule: "cosine", temperature: 1, order: "confidence", fill: "smooth", evidence: 30, blend: true, seed: 0 }
const PLAIN = { fill: "grey", evidence: 0, blend: false }
const RANGES = { steps: [1, 16, 1], temperature: [0, 14, 0.5], evidence: [0, 60, 5] }
const CHOICES = { schedule: Object.keys(SCHEDULES), order: ["confidence", "halton", "random"], fill: ["smooth", "grey"] }

// A setting as the address says it, or null if it is none.
function read(name, text) {
  if (name in CHOICES) return CHOICES[name].includes(text) ? text : null
  if (name === "blend") return { true: true, false: false }[text] ?? null
  if (text.trim() === "" || !Number.isFinite(+text)) return null
  if (name === "seed") return Math.floor(Math.min(Math.max(+text, 0), 2 ** 32 - 1))
  const [low, high, step] = RANGES[name]
  return Math.min(Math.max(Math.round(+text / step) * step, low), high)
}

// A control for each setting; gives { values(), set(values) }.
function controls(parent, changed) {
  const shown = {}
  const labelled = name => element("label", { textContent: name + " " }, parent)
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (name in RANGES) {
      const [min, max, step] = RANGES[name], input = range(name, parent, { min, max, value }, () => { output.value = input.value; changed() })
      input.step = step
      const output = element("output", {}, input.parentElement)
      shown[name] = { get: () => +input.value, set: value => { input.value = output.value = value } }
    } else if (name in CHOICES) {
      const input = element("select", {}, labelled(name))
      for (const option of CHOICES[name]) element("option", { textContent: option, value: option }, input)
      input.addEventListener("change", changed)
      shown[name] = { get: () => input.value, set: value => { input.value = value } }
    } else if (name === "blend") {
      const input = element("input", { type: "checkbox" }, labelled(name))
      input.addEventListener("change", changed)
      shown[name] = { get: () => input.checked, set: value => { input.checked = value } }
    } else {
      const input = element("input", { type: "number", min: 0, max: 2 ** 32 - 1 }, labelled(name))
      input.addEventListener("change", changed)
      shown[name] = { get: () => read(name, input.value) ?? 0, set: value => { input.value = value } }
    }
  }
  const set = values => { for (const [name, value] of Object.entries(values)) shown[name].set(value) }
  set(DEFAULTS)
  return { set, values: () => Object.fromEntries(Object.entries(shown).map(([name, { get }]) => [name, get()])) }
}

export async function start(root) {
  const stopped = obstacle(), { size, pictures, holes } = await (await fetch(new URL("start.json", import.meta.url))).json()
  const model = standalone({ size, picture: pictures[0].png, packed: holes[0], random_holes: holes, live: !stopped, asked: 0, answered: 0, message: "" })
  model.standalone = false  // it is the worker that answers, where in a notebook it is Python
  const runs = standalone({ data: {}, step: 0 })

  const shelf = element("p", { className: "live-shelf" }, root, { role: "group", "aria-label": "pictures" })
  const board = element("div", { className: "live-board" }, root)
  const painting = element("div", {}, board), result = element("div", { className: "mg live-result" }, board)
  const canvas = element("canvas", { width: size, height: size }, result, { role: "img", "aria-label": "the mended picture" })
  const progress = element("progress", { max: 1, value: 0, hidden: true }, result, { "aria-label": "loading the networks" })
  const status = told(result)
  const details = element("details", { className: "live-settings" }, root)
  element("summary", { textContent: "Settings" }, details)
  const settings = controls(element("div", { className: "mg mg-bar" }, details), () => { plain.setAttribute("aria-pressed", isPlain()) })
  const bar = element("div", { className: "mg mg-bar" }, root)
  const trace = element("div", {}, root)
  const say = text => { status.textContent = text }

  const isPlain = () => Object.entries(PLAIN).every(([name, value]) => settings.values()[name] === value)
  button("Another seed", bar, () => { settings.set({ seed: settings.values().seed + 1 }); mend() })
  const plain = button("Plain MaskGIT", bar, () => {
    settings.set(Object.fromEntries(Object.keys(PLAIN).map(name => [name, (isPlain() ? DEFAULTS : PLAIN)[name]])))
    plain.setAttribute("aria-pressed", isPlain())
    mend()
  })
  plain.title = "without the kit's three additions: the smooth filling, the evidence of half-seen tokens, the blended seam"
  plain.setAttribute("aria-pressed", "false")
  button("Defaults", bar, () => { settings.set(DEFAULTS); plain.setAttribute("aria-pressed", "false") })
  button("Copy link", bar, share)

  for (const [i, { name, png }] of pictures.entries()) {
    const choice = element("button", { type: "button" }, shelf, { "aria-label": name, "aria-pressed": i === 0 })
    element("img", { src: png, alt: "", width: size, height: size }, choice)
    choice.addEventListener("click", () => send(model, { picture: png }))
  }
  const mark = () => pictures.forEach(({ png }, i) => shelf.children[i].setAttribute("aria-pressed", png === model.get("picture")))

  function share() {
    const values = settings.values(), link = new URLSearchParams()
    for (const [name, value] of Object.entries(values)) if (value !== DEFAULTS[name]) link.set(name, value)
    const picture = pictures.findIndex(({ png }) => png === model.get("picture"))
    if (picture >= 0) link.set("picture", picture)
    link.set("hole", model.get("packed"))
    history.replaceState(null, "", "#" + link)
    const own = picture < 0 ? " Your own picture is not in it: it stays with you." : ""
    const told = where => say(`The link to these settings and this hole is ${where}.${own}`)
    if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(() => told("on the clipboard"), () => told("in the address bar"))
    else told("in the address bar")
  }
  function follow() {  // the address of a shared link
    const link = new URLSearchParams(location.hash.slice(1)), given = {}
    for (const name of Object.keys(DEFAULTS)) {
      const value = link.has(name) ? read(name, link.get(name)) : null
      if (value !== null) given[name] = value
    }
    settings.set(given)
    if (pictures[link.get("picture")]) send(model, { picture: pictures[link.get("picture")].png })
    try { if (atob(link.get("hole") ?? "").length === size * size / 8) send(model, { packed: link.get("hole") }) } catch { /* no hole of ours */ }
  }

  const mender = stopped ? null : new Mender((loaded, error) => {
    progress.hidden = !!(mender.config || error)
    progress.value = loaded
    if (error) say(`The networks could not be loaded: ${error}. Mend tries again.`)
    else if (!mender.config) say(`loading the networks: ${Math.round(100 * loaded)} %`)
    else if (status.textContent.startsWith("loading")) say("Ready: paint a hole, then press Mend.")
  })
  async function mend() {
    if (!mender) return
    const begun = performance.now(), values = settings.values(), hole = unpackHole(model.get("packed"), size)
    const image = await toPixels(model.get("picture"), size)
    const answer = message => send(model, { message, answered: model.get("answered") + 1 })
    if (!hole.includes(1)) return answer("Nothing is missing: paint a hole first.")
    say("mending ...")
    try {
      const steps = await mender.mend(image, hole, values, ({ number, mask, picture }) => {
        canvas.getContext("2d").drawImage(toCanvas(picture, size), 0, 0)
        say(`step ${number}: ${mask.reduce((a, b) => a + b, 0)} tokens left`)
      })
      const name = `${values.schedule}, temperature ${values.temperature}, ${values.order}, seed ${values.seed}${isPlain() ? ", plain" : ""}`
      send(runs, { data: record(name, image, hole, steps, mender.config, values), step: steps.length })
      say(`Mended in ${steps.length} step${steps.length === 1 ? "" : "s"} and ${((performance.now() - begun) / 1000).toFixed(1)} seconds, in your browser.`)
      answer("")
    } catch (error) {
      say(`Not possible: ${error.message}`)
      answer("")
    }
  }
  model.on("change:asked", mend)
  model.on("change:picture", mark)

  follow()
  await Promise.all([brush({ model, el: painting }), scrubber({ model: runs, el: trace })])
  addEventListener("hashchange", follow)
  if (stopped) say(stopped)
  else mender.load()
}
