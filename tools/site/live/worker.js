// Runs the networks away from the page, which stays responsive. Asked { job, image, hole, options }, it answers { job, step } for each step and
// { job, done }; { share } while it loads; { job, error } if something fails. A newer job ends an older one. { device, ms } says, when it is known
// or changes, what computes a step of the transformer and in how many milliseconds.
import * as ort from "./ort.js"
import { draws, inpaint, logSoftmax } from "./live.js"

const here = new URL("./", import.meta.url), NETWORKS = ["encoder", "transformer", "decoder"]
const CLOSE = 1e-3  // how far the GPU's numbers may be from the processor's, as a share of the largest
let loading = null, newest = 0, busy = 0  // jobs that are being mended

// The browser's own store of files, so that a second visit loads nothing; null where it has none or refuses.
async function store(name) {
  try {
    for (const old of await caches.keys()) if (old.startsWith("maskgit-") && old !== name) await caches.delete(old)
    return await caches.open(name)
  } catch { return null }
}

async function read(response, tell) {
  const parts = [], reader = response.body.getReader()
  for (let part = await reader.read(); !part.done; part = await reader.read()) { parts.push(part.value); tell(part.value.length) }
  return new Uint8Array(await new Blob(parts).arrayBuffer())
}

async function fetched(name, kept, tell = () => {}) {
  const url = new URL(name, here), found = await kept?.match(url), response = found ?? await fetch(url)
  if (!response.ok) throw new Error(`${name} could not be loaded (${response.status})`)
  if (!found) kept?.put(url, response.clone()).catch(() => {})
  return read(response, tell)
}

const unpacked = file => new Response(new Blob([file]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer()

async function load(device) {
  const { version, bytes, gpu } = await (await fetch(new URL("files.json", here), { cache: "no-cache" })).json()
  const kept = await store(`maskgit-${version}`), total = Object.values(bytes).reduce((a, b) => a + b)
  let loaded = 0, failed = false
  const tell = count => { loaded += count; if (!failed) postMessage({ share: Math.min(1, loaded / total) }) }
  const files = Object.fromEntries(await Promise.all(Object.keys(bytes).map(async name => [name, await fetched(name, kept, tell)]))
    .catch(error => { failed = true; throw error }))  // the other files are still on their way, and say nothing more
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1
  ort.env.wasm.wasmBinary = await unpacked(files["ort-wasm-simd-threaded.wasm.gz"])
  const sessions = []
  for (const name of NETWORKS) sessions.push(await ort.InferenceSession.create(files[name + ".onnx"], { executionProviders: ["wasm"] }))
  const config = JSON.parse(new TextDecoder().decode(files["config.json"])), numbers = new Float32Array(files["codebook.bin"].buffer)
  const { image_size: size, grid, codebook_size: codes, latent_dim: dim } = config
  const run = async (session, tensor) => {
    const begun = performance.now(), { data } = (await session.run({ [session.inputNames[0]]: tensor }))[session.outputNames[0]]
    return { data, ms: performance.now() - begun, device: "wasm" }
  }
  const whole = tokens => new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, grid * grid])
  const model = {
    config, codebook: Array.from({ length: codes }, (_, k) => numbers.subarray(k * dim, (k + 1) * dim)),
    encoder: pixels => run(sessions[0], new ort.Tensor("float32", pixels, [1, 3, size, size])),
    transformer: tokens => run(sessions[1], whole(tokens)),
    decoder: tokens => run(sessions[2], whole(tokens)),
  }
  if (device !== "wasm") {
    const tried = accelerate(model, files, () => fetched(gpu, kept), device === "webgpu").catch(error => {
      if (device === "webgpu") postMessage({ device: "wasm", why: error.message })
    })
    if (device === "webgpu") await tried  // else mending begins meanwhile
  }
  return model
}

// The GPU's worker: `ask(question)`, which fails for ever once something has failed, and `stop(why)`.
function gpu() {
  const worker = new Worker(new URL("gpu.js", here), { type: "module" }), waiting = []
  let failed = null
  const stop = why => {
    failed ??= new Error(why)
    worker.terminate()
    for (const { no } of waiting.splice(0)) no(failed)
  }
  worker.onmessage = ({ data }) => data.error === undefined ? waiting.shift().yes(data) : stop(data.error)
  worker.onerror = event => stop(event.message)
  const ask = question => new Promise((yes, no) => {
    if (failed) return no(failed)
    waiting.push({ yes, no })
    worker.postMessage(question)
  })
  return { ask, stop }
}

const pause = (ms = 0) => new Promise(resolve => setTimeout(resolve, ms))
const middle = values => [...values].sort((a, b) => a - b)[values.length >> 1]

// The median milliseconds of three calls of each, which must agree.
async function compared(processor, graphics, tokens) {
  const slow = [], fast = []
  for (let i = 0; i < 4; i++) {
    while (busy) await pause(50)  // nobody who mends waits for this
    const right = await processor(tokens), made = await graphics(tokens)
    const most = right.data.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    if (!right.data.every((value, i) => Math.abs(value - made.data[i]) <= CLOSE * most)) throw new Error("its numbers are others")
    if (i) { slow.push(right.ms); fast.push(made.ms) }  // the first call prepares
    await pause()  // hear of a job
  }
  return { wasm: middle(slow), webgpu: middle(fast) }
}

// Puts the GPU in the place of the processor for each network that it computes sooner, if all that it says is right. `forced`: also later, and by an
// adapter that is no real GPU.
async function accelerate(model, files, fetchProgram, forced) {
  const adapter = "Suspending" in WebAssembly && await navigator.gpu?.requestAdapter()
  if (!adapter || adapter.info.isFallbackAdapter && !forced) throw new Error("this browser offers none")
  const { ask, stop } = gpu(), { grid, codebook_size: codes } = model.config, better = {}, ms = {}
  try {
    await ask({ program: await unpacked(await fetchProgram()), files: { transformer: files["transformer.onnx"], decoder: files["decoder.onnx"] } })
    for (const name of ["transformer", "decoder"]) {
      const tokens = Int32Array.from({ length: grid ** 2 }, (_, i) => name === "transformer" && i % 2 ? codes : i % codes)  // half of them masked
      const processor = model[name], graphics = tokens => ask({ name, tokens })
      ms[name] = await compared(processor, graphics, tokens)
      if (forced || ms[name].webgpu < ms[name].wasm)
        better[name] = tokens => graphics(tokens).catch(() => { model[name] = processor; return processor(tokens) })
    }
    Object.assign(model, better)
  } catch (error) { stop(error.message); throw error }
  if (!Object.keys(better).length) stop("it is not needed")
  const device = better.transformer ? "webgpu" : "wasm"
  postMessage({ device, ms: ms.transformer[device] })
}

// For each token that a step decided: the probability of its code, and the five likeliest codes with theirs in thousandths.
function choices({ tokens, mask, logits }) {
  return logits.map((row, i) => {
    if (!row || mask[i]) return null
    const p = logSoftmax(row).map(Math.exp), codes = [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, 5)
    return { probability: p[tokens[i]], likeliest: codes.map(code => [code, Math.round(1000 * p[code])]) }
  })
}

onmessage = async ({ data: { job, image, hole, options, device } }) => {
  let working = 0
  newest = job
  try {
    const model = await (loading ??= load(device).catch(error => { loading = null; throw error }))  // the next job tries again
    postMessage({ share: 1, config: model.config })
    if (!image) return
    busy += working = 1
    const { encoder, transformer, decoder } = model, answers = []  // one device for a whole job, unless it fails
    const networks = {
      config: model.config, codebook: model.codebook,
      encode: async pixels => (await encoder(pixels)).data,
      decode: async tokens => (await decoder(tokens)).data,
      predict: async tokens => { answers.push(await transformer(tokens)); return answers.at(-1).data },
    }
    for await (const step of inpaint(networks, image, hole, draws(options.seed ?? 0), options)) {
      postMessage({ job, step: { ...step, logits: null, choices: choices(step) } })
      await pause()  // hear of a newer job
      if (job !== newest) return
    }
    if (answers.length) {
      const used = answers.at(-1).device
      postMessage({ device: used, ms: middle(answers.filter(answer => answer.device === used).map(answer => answer.ms)) })
    }
    postMessage({ job, done: true })
  } catch (error) {
    postMessage({ job, error: error.message ?? String(error) })
  } finally { busy -= working }
}
