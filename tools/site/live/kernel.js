// In the lessons' pages the worker answers widgets that Python answers in a notebook: their buttons ask, as there, by counting up `asked`.
import { Mender, obstacle, record, toPixels, toUrl, unpackHole } from "./mender.js"

let mender = null, seed = 0

// Mends what the widget shows and says in it how far that is.
async function mend(model, options) {
  const say = message => { model.set("message", message); model.set("answered", model.get("answered") + 1) }
  const size = model.get("size"), hole = unpackHole(model.get("packed"), size)
  mender ??= new Mender(share => { if (!mender.config) mender.say(`loading the networks, once: ${Math.round(100 * share)} %`) })
  mender.say = say
  try {
    if (!hole.includes(1)) throw new Error("nothing is missing, paint a hole first")
    const image = await toPixels(model.get("picture"), size)
    const steps = await mender.mend(image, hole, options, step => say(`step ${step.number} ...`))
    return { image, hole, steps, say }
  } catch (error) { say(`not possible: ${error.message}`) }
}

const ANSWERS = {
  async HoleBrush(model, box) {
    const made = await mend(model, { seed: seed++ }), beside = box.parentElement.querySelectorAll("[data-mg]")
    if (!made) return
    const name = `mending ${seed}`, data = record(name, made.image, made.hole, made.steps, mender.config)
    for (const { mg } of beside) if (mg.kind === "Scrubber") { mg.model.set("data", data); mg.model.set("step", data.steps) }
    made.say(`${name}: ${data.runs[0].pictures[0].left[0]} tokens were missing`)
  },
  async ScheduleExplorer(model) {
    const name = model.get("schedule"), steps = model.get("steps"), schedule = name === "drawn" ? model.get("points") : name
    const made = await mend(model, { schedule, steps, seed: model.get("seed") })
    if (!made) return
    const { [`${name}, ${steps}`]: _, ...others } = model.get("results")
    model.set("results", { ...others, [`${name}, ${steps}`]: toUrl(made.steps.at(-1).picture, model.get("size")) })
    made.say("")
  },
}

async function connect(box) {
  const { model, kind, shown, stop } = box.mg ?? {}
  if (obstacle() || !ANSWERS[kind] || !model.get("live")) return
  (await stop)?.()
  box.replaceChildren()
  model.standalone = false
  model.on("change:asked", () => ANSWERS[kind](model, box))
  box.mg.stop = shown()  // once more, now with its buttons
  await box.mg.stop
}

await Promise.all([...document.querySelectorAll("[data-mg]")].map(connect))
document.documentElement.dataset.widgets = "answer"
