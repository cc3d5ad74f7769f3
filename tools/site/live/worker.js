// Runs the networks away from the page, which stays responsive. Asked { job, image, hole, options }, it answers { job, step } for each step and
// { job, done }; { share } while it loads; { job, error } if something fails. A newer job ends an older one.
import * as ort from "./ort.js"
import { draws, inpaint, logSoftmax } from "./live.js"

const here = new URL("./", import.meta.url), NETWORKS = ["encoder", "transformer", "decoder"]
let loading = null, newest = 0

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

async function load() {
  const { version, bytes } = await (await fetch(new URL("files.json", here), { cache: "no-cache" })).json()
  const kept = await store(`maskgit-${version}`), total = Object.values(bytes).reduce((a, b) => a + b)
  let loaded = 0, failed = false
  const tell = count => { loaded += count; if (!failed) postMessage({ share: Math.min(1, loaded / total) }) }
  const files = Object.fromEntries(await Promise.all(Object.keys(bytes).map(async name => {
    const url = new URL(name, here), found = await kept?.match(url), response = found ?? await fetch(url)
    if (!response.ok) throw new Error(`${name} could not be loaded (${response.status})`)
    if (!found) kept?.put(url, response.clone()).catch(() => {})
    return [name, await read(response, tell)]
  })).catch(error => { failed = true; throw error }))  // the other files are still on their way, and say nothing more
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1
  const packed = new Blob([files["ort-wasm-simd-threaded.wasm.gz"]]).stream().pipeThrough(new DecompressionStream("gzip"))
  ort.env.wasm.wasmBinary = await new Response(packed).arrayBuffer()
  const sessions = []
  for (const name of NETWORKS) sessions.push(await ort.InferenceSession.create(files[name + ".onnx"], { executionProviders: ["wasm"] }))
  const config = JSON.parse(new TextDecoder().decode(files["config.json"])), numbers = new Float32Array(files["codebook.bin"].buffer)
  const { image_size: size, grid, codebook_size: codes, latent_dim: dim } = config
  const run = async (session, tensor) => (await session.run({ [session.inputNames[0]]: tensor }))[session.outputNames[0]].data
  const whole = tokens => new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, grid * grid])
  return {
    config, codebook: Array.from({ length: codes }, (_, k) => numbers.subarray(k * dim, (k + 1) * dim)),
    encode: pixels => run(sessions[0], new ort.Tensor("float32", pixels, [1, 3, size, size])),
    predict: tokens => run(sessions[1], whole(tokens)),
    decode: tokens => run(sessions[2], whole(tokens)),
  }
}

// For each token that a step decided: the probability of its code, and the five likeliest codes with theirs in thousandths.
function choices({ tokens, mask, logits }) {
  return logits.map((row, i) => {
    if (!row || mask[i]) return null
    const p = logSoftmax(row).map(Math.exp), codes = [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, 5)
    return { probability: p[tokens[i]], likeliest: codes.map(code => [code, Math.round(1000 * p[code])]) }
  })
}

onmessage = async ({ data: { job, image, hole, options } }) => {
  newest = job
  try {
    const model = await (loading ??= load().catch(error => { loading = null; throw error }))  // the next job tries again
    postMessage({ share: 1, config: model.config })
    if (!image) return
    for await (const step of inpaint(model, image, hole, draws(options.seed ?? 0), options)) {
      postMessage({ job, step: { ...step, logits: null, choices: choices(step) } })
      await new Promise(resolve => setTimeout(resolve))  // hear of a newer job
      if (job !== newest) return
    }
    postMessage({ job, done: true })
  } catch (error) {
    postMessage({ job, error: error.message ?? String(error) })
  }
}
