// Runs functions of live.js on the cases that Python writes to standard input, and answers in the same order.
import { readFileSync } from "node:fs"
import * as live from "../tools/site/live/live.js"
import { unpackHole } from "../tools/site/live/mender.js"

const TYPES = { f32: Float32Array, f64: Float64Array, u8: Uint8Array, i32: Int32Array }
const given = value => {
  const [type] = value && typeof value === "object" && !Array.isArray(value) ? Object.keys(value) : []
  return type in TYPES ? TYPES[type].from(value[type]) : Array.isArray(value) ? value.map(given) : value
}
const plain = value => ArrayBuffer.isView(value) ? Array.from(value, x => Number.isFinite(x) ? x : String(x)) : value

// A widget of the lessons, which imports nothing and exports `names` for once.
function widget(file, names) {
  const texts = ["common.js", file].map(name => readFileSync(new URL(`../maskgit_nb/static/${name}`, import.meta.url), "utf8"))
  return import("data:text/javascript," + encodeURIComponent(`${texts.join("\n")}\nexport { ${names} }`))
}
const schedules = await widget("schedules.js", "between, maskCounts"), brush = await widget("brush.js", "pack, unpack")

const RUNS = {
  draws: (seed, sizes) => { const uniforms = live.draws(seed); return sizes.map(n => [...uniforms(n)]) },
  counts: (schedule, n, steps) => live.maskCounts(live.gammaOf(schedule), n, steps),
  widgetCounts: (points, n, steps) => schedules.maskCounts(Array.from({ length: steps }, (_, t) => schedules.between(points, (t + 1) / steps)), n, steps),
  unpacked: (packed, size) => [unpackHole(packed, size), brush.unpack(packed, size * size)].map(plain),
  repacked: (packed, size) => brush.pack(unpackHole(packed, size)),
  evidence: (latents, codebook, hole, size, grid, weight) => {
    const distances = live.vectors(latents, grid * grid, true).map(row => live.squaredDistances(row, codebook))
    const bias = live.visibleEvidence(distances, codebook, hole, size, grid, weight)
    return distances.map((_, i) => plain(bias(i) ?? new Float32Array(codebook.length)))
  },
  async decode(table, tokens, mask, codes, seed, options, bias) {  // `table`: the logits of each step
    let step = 0
    const predict = () => table[step++], add = bias ? i => bias[i] : () => null, made = []
    for await (const state of live.decode(predict, tokens, mask, codes, live.draws(seed), options, add))
      made.push({ tokens: plain(state.tokens), mask: plain(state.mask), confidence: plain(state.confidence) })
    return made
  },
}

const answers = []
for (const [name, ...values] of JSON.parse(readFileSync(0, "utf8")))
  answers.push(plain(await (RUNS[name] ?? live[name])(...values.map(given))))
console.log(JSON.stringify(answers))
