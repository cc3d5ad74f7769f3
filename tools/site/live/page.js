// The live page: a picture, a brush, the settings of `inpaint`, and every step of the mending as it is made.
import { button, element, range, render as brush, send, standalone, told } from "./brush.js"
import { SCHEDULES } from "./live.js"
import { Mender, obstacle, record, toCanvas, toPixels, unpackHole } from "./mender.js"
import { render as scrubber } from "./scrubber.js"

const DEFAULTS = { steps: 8, schedule: "cosine", temperature: 1, order: "confidence", fill: "smooth", evidence: 30, blend: true, seed: 0 }
const PLAIN = { fill: "grey", evidence: 0, blend: false }
const RANGES = { steps: [1, 16, 1], temperature: [0, 14, 0.5], evidence: [0, 60, 5] }
const CHOICES = { schedule: Object.keys(SCHEDULES), order: ["confidence", "halton", "random"], fill: ["smooth", "grey"], device: ["wasm", "webgpu"] }
const HINTS = {
  steps: "in how many rounds the hole is filled", schedule: "how much of it early, how much late", temperature: "how much chance mixes into the order",
  order: "what comes first: where the network is surest, an even spread, or chance", fill: "what stands in the hole at first: the colours around it, or grey",
  evidence: "how much half-seen patches at the edge count", blend: "smooths the seam at the edge", seed: "where chance begins: the same number, the same picture",
}

// A setting as the address says it, or null if it is none.
function read(name, text) {
  if (name in CHOICES) return CHOICES[name].includes(text) ? text : null
  if (name === "blend") return { true: true, false: false }[text] ?? null
  if (text.trim() === "" || !Number.isFinite(+text)) return null
  if (name === "seed") return Math.floor(Math.min(Math.max(+text, 0), 2 ** 32 - 1))
  const [low, high, step] = RANGES[name]
  return Math.min(Math.max(Math.round(+text / step) * step, low), high)
}

const STORY = "The network sees the picture as small square patches, its tokens. In each step it guesses all that are missing, keeps the guesses that it is " +
  "surest of, and guesses the others anew. Play shows the steps; a patch that you point at tells what else it might have been."

// What computes, for the line below the picture.
function computed({ device, ms, why }) {
  const step = ms ? `, ${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms a step` : ""
  if (device === "wasm") return `Computed on this device's processor${step}.${why ? ` No GPU: ${why}.` : ""}`
  return `Computed on this device's GPU (graphics processor)${step}. It rounds a little otherwise: now and then a patch differs from the processor's.`
}

// A control for each setting; gives { values(), set(values) }.
function controls(parent, changed) {
  const shown = {}
  for (const [name, value] of Object.entries(DEFAULTS)) {
    const box = element("div", { className: "mg-bar" }, parent), labelled = name => element("label", { textContent: name + " " }, box)
    if (name in RANGES) {
      const [min, max, step] = RANGES[name], input = range(name, box, { min, max, value }, () => { output.value = input.value; changed() })
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
    element("small", { textContent: HINTS[name] }, box)
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
  const canvas = element("canvas", { width: size, height: size, hidden: true }, result, { role: "img", "aria-label": "the mended picture" })
  const progress = element("progress", { max: 1, value: 0, hidden: true }, result, { "aria-label": "loading the networks" })
  const status = told(result), where = element("p", { className: "live-where" }, result)
  const bar = element("div", { className: "mg mg-bar" }, result), details = element("details", { className: "live-settings" }, root)
  element("summary", { textContent: "Settings" }, details)
  const inside = element("div", { className: "mg" }, details)
  const settings = controls(inside, () => { plain.setAttribute("aria-pressed", isPlain()) }), kinds = element("div", { className: "mg-bar" }, inside)
  const trace = element("div", { hidden: true }, root)
  element("h2", { textContent: "How it was filled in" }, trace)
  element("p", { textContent: STORY }, trace)
  const say = text => { status.textContent = text }
  let mending = false

  const isPlain = () => Object.entries(PLAIN).every(([name, value]) => settings.values()[name] === value)
  button("Another try", bar, () => { settings.set({ seed: settings.values().seed + 1 }); mend() })
  button("As at first", kinds, () => { settings.set(DEFAULTS); plain.setAttribute("aria-pressed", "false") })
  const plain = button("Plain MaskGIT", kinds, () => {
    settings.set(Object.fromEntries(Object.keys(PLAIN).map(name => [name, (isPlain() ? DEFAULTS : PLAIN)[name]])))
    plain.setAttribute("aria-pressed", isPlain())
    mend()
  })
  element("small", { textContent: "as published: grey, no evidence, no blend" }, kinds)
  plain.setAttribute("aria-pressed", "false")
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
    else if (!mender.config) say(loaded < 1 ? `loading the networks, once: ${Math.round(100 * loaded)} %` : "starting the networks ...")
    else if (/^(loading|starting)/.test(status.textContent)) say(mending ? "mending ..." : "Ready: paint a hole, then press Mend.")
    where.textContent = mender.where ? computed(mender.where) : ""
  }, read("device", new URLSearchParams(location.search).get("device") ?? "") ?? "auto")
  async function mend() {
    if (!mender) return
    const begun = performance.now(), values = settings.values(), hole = unpackHole(model.get("packed"), size)
    const image = await toPixels(model.get("picture"), size)
    const answer = message => send(model, { message, answered: model.get("answered") + 1 })
    if (!hole.includes(1)) return answer("Nothing is missing: paint a hole first.")
    say("mending ...")
    mending = true
    try {
      const steps = await mender.mend(image, hole, values, ({ number, mask, picture }) => {
        canvas.getContext("2d").drawImage(toCanvas(picture, size), 0, 0)
        canvas.hidden = false
        if (number === 1) result.scrollIntoView({ block: "nearest" })  // on a phone it lies below
        say(`step ${number} of ${values.steps}: ${mask.reduce((a, b) => a + b, 0)} patches left`)
      })
      const name = `${values.schedule}, temperature ${values.temperature}, ${values.order}, seed ${values.seed}${isPlain() ? ", plain" : ""}`
      trace.hidden = false
      send(runs, { data: record(name, image, hole, steps, mender.config, values), step: steps.length })
      say(`Mended in ${steps.length} step${steps.length === 1 ? "" : "s"} and ${((performance.now() - Math.max(begun, mender.ready)) / 1000).toFixed(1)} seconds, in your browser.`)
      answer("")
    } catch (error) {
      say(`Not possible: ${error.message}`)
      answer("")
    }
    mending = false
  }
  model.on("change:asked", mend)
  model.on("change:picture", () => {
    mark()
    if (mending || canvas.hidden) return
    canvas.hidden = true
    say("Another picture: paint a hole, then press Mend.")
  })

  follow()
  await Promise.all([brush({ model, el: painting }), scrubber({ model: runs, el: element("div", {}, trace) })])
  addEventListener("hashchange", follow)
  if (stopped) say(stopped)
  else mender.load()
}
