// The page's side of worker.js, and the answers that widgets of a page get without Python.
import { gammaOf, greyFill, holeToMask } from "./live.js"

// Why this page cannot mend: a sentence, or "" if it can.
export function obstacle() {
  if (location.protocol === "file:") return "Opened as a file, a page may not run the networks: serve the folder, for example with python -m http.server, and open it from there."
  if (["WebAssembly", "Worker", "DecompressionStream"].some(name => !(name in globalThis)))
    return "This browser has no WebAssembly, or is too old for the networks: try a current Firefox, Chrome, Edge or Safari."
  return ""
}

const canvasOf = size => Object.assign(document.createElement("canvas"), { width: size, height: size })

// A picture by its address as pixels in [-1,1], channel by channel, and back.
export async function toPixels(url, size) {
  const image = new Image()
  image.src = url
  await image.decode()
  const pen = canvasOf(size).getContext("2d")
  pen.drawImage(image, 0, 0, size, size)
  const { data } = pen.getImageData(0, 0, size, size), area = size * size
  return Float32Array.from({ length: 3 * area }, (_, i) => data[4 * (i % area) + Math.floor(i / area)] / 127.5 - 1)
}

export function toCanvas(pixels, size) {
  const canvas = canvasOf(size), area = size * size, drawn = new ImageData(size, size)
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) drawn.data[4 * i + c] = Math.round((pixels[c * area + i] + 1) * 127.5)
    drawn.data[4 * i + 3] = 255
  }
  canvas.getContext("2d").putImageData(drawn, 0, 0)
  return canvas
}

export const toUrl = (pixels, size) => toCanvas(pixels, size).toDataURL("image/png")

export function unpackHole(packed, size) {
  const bytes = atob(packed)
  return Uint8Array.from({ length: size * size }, (_, i) => bytes.charCodeAt(i >> 3) >> 7 - (i & 7) & 1)
}

export class Mender {
  // `told(share, error)`: how much of the networks is loaded, and what went wrong. `device`: "wasm", which computes as Python does; "webgpu", the
  // GPU even if it is slow; "auto", the faster one. `where` says what it is: { device, ms, why }.
  constructor(told = () => {}, device = "wasm") {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" })
    this.job = { number: 0 }  // the newest; only its answers count
    this.config = this.where = null  // known once the networks are loaded
    this.device = device
    this.worker.onmessage = ({ data }) => {
      if (data.config && !this.config) { this.config = data.config; this.ready = performance.now() }
      if (data.device) this.where = data
      if ("share" in data || data.device) told(data.share ?? 1)
      if (data.error && !data.job) told(0, data.error)  // of `load`, which nobody waits for
      if (!data.job || data.job !== this.job.number) return
      if (data.step) this.job.step(data.step)
      if (data.done) this.job.done()
      if (data.error) this.job.failed(new Error(data.error))
    }
    this.worker.onerror = event => this.job.failed?.(new Error(event.message || "the worker could not be started"))
  }

  load() { this.worker.postMessage({ job: 0, device: this.device }) }

  // Ends with the steps of `inpaint`; `step` hears of each. A job that a newer one replaces never ends.
  mend(image, hole, options, step = () => {}) {
    const steps = [], job = this.job.number + 1
    return new Promise((done, failed) => {
      this.job = { number: job, step: made => { steps.push(made); step(made) }, done: () => done(steps), failed }
      this.worker.postMessage({ job, image, hole, options, device: this.device })
    })
  }
}

// A finished run as the scrubber's data: what lesson g's `record` and `Scrubber.load` make.
export function record(name, image, hole, steps, { image_size: size, grid }, { schedule = "cosine", dilate = 0 } = {}) {
  const start = holeToMask(hole, size, grid, dilate), gamma = gammaOf(schedule)
  const sure = steps.flatMap(step => [...step.confidence].filter(Number.isFinite)), least = Math.min(...sure), most = Math.max(...sure)
  const level = score => Number.isFinite(score) ? Math.round(254 * (score - least) / Math.max(most - least, 1e-9)) : 255
  const left = [start, ...steps.map(step => step.mask)].map(mask => mask.reduce((a, b) => a + b, 0))
  const decided = Array.from(start, (missing, i) => missing ? 1 + steps.filter(step => step.mask[i]).length : 0)
  const choice = decided.map((when, i) => steps[when - 1]?.choices[i])
  const run = {
    name, left: left.map(count => count / left[0]), gamma: Array.from({ length: 33 }, (_, r) => gamma(r / 32)),
    pictures: [{
      frames: [greyFill(image, hole), ...steps.map(step => step.picture)].map(pixels => toUrl(pixels, size)),
      confidence: steps.map(step => btoa(String.fromCharCode(...Array.from(step.confidence, level)))),
      decided, codes: [...steps.at(-1).tokens], left,
      probability: choice.map(made => made?.probability ?? 0), likeliest: choice.map(made => made?.likeliest ?? []),
    }],
  }
  return { runs: [run], size, grid, steps: steps.length }
}
