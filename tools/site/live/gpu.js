// Runs networks by WebGPU, for worker.js. Asked { program, files } (onnxruntime's own, and the ONNX files by name) it answers {}; asked
// { name, tokens } it answers { data, ms, device }. One answer for each question, in their order; { error } is the last that it says.
import * as ort from "./ort.gpu.js"

const sessions = {}
let turn = Promise.resolve()  // a network does not take two questions at once

async function start({ program, files }) {
  ort.env.wasm.numThreads = 1
  ort.env.wasm.wasmBinary = program
  const options = { executionProviders: ["webgpu"], logSeverityLevel: 3 }  // or it warns that the processor computes shapes
  for (const [name, file] of Object.entries(files)) sessions[name] = await ort.InferenceSession.create(file, options)
  ort.env.webgpu.device.lost.then(({ message }) => postMessage({ error: message || "the GPU is gone" }))
  return {}
}

async function run({ name, tokens }) {
  const begun = performance.now(), session = sessions[name]
  const tensor = new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length])
  const { data } = (await session.run({ [session.inputNames[0]]: tensor }))[session.outputNames[0]]
  return { data, ms: performance.now() - begun, device: "webgpu" }
}

onmessage = ({ data }) => {
  turn = turn.then(() => data.files ? start(data) : run(data)).then(postMessage, error => postMessage({ error: error.message ?? String(error) }))
}
