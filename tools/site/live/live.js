// Lessons 05 to 08 in JavaScript, for one image: the loop of `decode` and what `inpaint` puts around it. The networks come from outside.
// Pixels are Float32Array(3 * size * size) in [-1,1], channel by channel; holes and masks Uint8Array, 1 = missing; tokens Int32Array.

// Random numbers, the same as torch's for the same seed: MT19937 (Matsumoto & Nishimura 1998)

export class Generator {
  constructor(seed) {
    this.state = new Uint32Array(624)
    this.state[0] = seed
    for (let i = 1; i < 624; i++) {
      const last = this.state[i - 1] ^ this.state[i - 1] >>> 30
      this.state[i] = Math.imul(1812433253, last) + i
    }
    this.place = 624
  }

  twist() {
    const s = this.state
    for (let i = 0; i < 624; i++) {
      const y = s[i] & 0x80000000 | s[(i + 1) % 624] & 0x7fffffff
      s[i] = s[(i + 397) % 624] ^ y >>> 1 ^ (y & 1 ? 0x9908b0df : 0)
    }
    this.place = 0
  }

  integer() {  // 32 random bits
    if (this.place === 624) this.twist()
    let y = this.state[this.place++]
    y ^= y >>> 11
    y ^= y << 7 & 0x9d2c5680
    y ^= y << 15 & 0xefc60000
    return (y ^ y >>> 18) >>> 0
  }

  uniform() {  // 53 random bits, as torch.rand(dtype=torch.float64)
    const high = this.integer() & 0x1fffff
    return (high * 2 ** 32 + this.integer()) / 2 ** 53
  }
}

// Rows of `n` numbers within (0,1) for the first image of a batch: what lesson 07's `Draws` gives for the seed.
export function draws(seed) {
  const outer = new Generator(seed)
  outer.integer()  // the upper half of the image's own seed, which MT19937 does not look at
  const own = new Generator(outer.integer())
  return n => Float64Array.from({ length: n }, () => Math.min(Math.max(own.uniform(), 1e-12), 1 - 1e-12))
}

// Schedules (lesson 06)

export const SCHEDULES = {
  linear: r => 1 - r,
  cosine: r => Math.cos(Math.PI / 2 * r),
  square: r => 1 - r ** 2,
  cubic: r => 1 - r ** 3,
  sqrt: r => 1 - Math.sqrt(r),
  logarithmic: r => r > 0 ? Math.min(1, -Math.log2(r) / 8) : 1,
  exponential: r => 1 - 2 ** (-8 * (1 - r)),
  arccos: r => Math.acos(r) / (Math.PI / 2),
}

// The gamma of a name, or of straight lines between points at equal distances from r = 0 to 1.
export function gammaOf(schedule) {
  if (typeof schedule === "string") return SCHEDULES[schedule]
  const last = schedule.length - 1
  return r => {
    const i = Math.min(last - 1, Math.floor(r * last))
    return schedule[i] + (r * last - i) * (schedule[i + 1] - schedule[i])
  }
}

export function maskCounts(gamma, n, steps) {
  const counts = []
  let left = n
  for (let t = 1; t <= steps; t++) {
    const share = Math.min(1, Math.max(0, gamma(t / steps)))
    const wanted = t < steps ? Math.floor(share * n + 1e-9) : 0
    const most = Math.max(0, left - 1), least = Math.max(0, Math.min(left - 1, steps - t))
    left = Math.min(most, Math.max(least, wanted))
    counts.push(left)
  }
  return counts
}

// Decoding (lesson 07)

function mirrored(index, base) {
  let digits = 0, scale = 1
  for (; index; index = Math.floor(index / base), scale *= base) digits = digits * base + index % base
  return digits / scale
}

export function haltonOrder(n) {  // the rank of each position
  const side = Math.sqrt(n), rank = new Map()
  for (let i = 1; rank.size < n; i++) {
    const position = Math.floor(mirrored(i, 2) * side) * side + Math.floor(mirrored(i, 3) * side)
    if (!rank.has(position)) rank.set(position, rank.size)
  }
  return Float64Array.from({ length: n }, (_, i) => rank.get(i))
}

function likeliest(values) {  // the first of the largest
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i
  return best
}

export function logSoftmax(logits) {
  const most = logits[likeliest(logits)]
  const rest = Math.log(logits.reduce((sum, l) => sum + Math.exp(l - most), 0))
  return Float64Array.from(logits, l => l - most - rest)
}

export function sampleToken(logits, uniform, temperature = 1) {
  const best = likeliest(logits)
  if (temperature === 0) return best
  let sum = 0
  const cumulative = Float64Array.from(logits, l => sum += Math.exp((l - logits[best]) / temperature))
  const code = cumulative.findIndex(share => share >= uniform * sum)
  return code < 0 ? logits.length - 1 : code
}

export function keepLowest(score, count) {  // of equal scores the first
  const rank = [...score.keys()].sort((a, b) => score[a] - score[b] || a - b)
  const kept = new Uint8Array(score.length)
  for (const i of rank.slice(0, count)) kept[i] = 1
  return kept
}

// Yields { number, tokens, mask, confidence, logits } after each step. `predict(tokens)` gives logits (N * K), K being the mask token's id;
// `bias(i)`, if not null, K numbers to add at position i; `uniforms(n)` random rows. `logits` holds a row for each token that was masked.
export async function* decode(predict, tokens, mask, codes, uniforms, options = {}, bias = () => null) {
  const { steps = 8, schedule = "cosine", temperature = 1, order = "confidence", confidence = "logprob", samplingTemperature = 1 } = options
  const n = tokens.length
  for (const [t, count] of maskCounts(gammaOf(schedule), mask.reduce((a, b) => a + b, 0), steps).entries()) {
    if (!mask.includes(1)) return
    const all = await predict(tokens.map((token, i) => mask[i] ? codes : token))
    const logits = [...mask].map((missing, i) => {
      if (!missing) return null
      const row = all.subarray(i * codes, (i + 1) * codes), more = bias(i)
      return more ? row.map((l, code) => l + more[code]) : row
    })
    const chance = uniforms(n)
    tokens = tokens.map((token, i) => mask[i] ? sampleToken(logits[i], chance[i], samplingTemperature) : token)
    const noise = order === "halton" ? haltonOrder(n) : uniforms(n), scale = temperature * (1 - (t + 1) / steps)
    const score = Float64Array.from(mask, (missing, i) => {
      if (!missing) return Infinity
      if (order === "halton") return -noise[i]
      if (order === "random") return noise[i]
      const sure = logSoftmax(logits[i])[tokens[i]]
      return (confidence === "prob" ? Math.exp(sure) : sure) - scale * Math.log(-Math.log(noise[i]))
    })
    mask = keepLowest(score, count)
    yield { number: t + 1, tokens, mask, confidence: score, logits }
  }
}

// Inpainting (lesson 08)

export function holeToMask(hole, size, grid, dilate = 0) {
  const mask = new Uint8Array(grid * grid), patch = size / grid
  hole.forEach((missing, i) => {
    if (!missing) return
    const row = Math.floor(i / size / patch), column = Math.floor(i % size / patch)
    for (let y = Math.max(0, row - dilate); y <= Math.min(grid - 1, row + dilate); y++)
      for (let x = Math.max(0, column - dilate); x <= Math.min(grid - 1, column + dilate); x++) mask[y * grid + x] = 1
  })
  return mask
}

export const greyFill = (image, hole) => image.map((value, i) => hole[i % hole.length] ? 0 : value)

// The pixels around each missing one, as far as `reach` says: a list of [pixel, its neighbours].
function surroundings(hole, size, reach) {
  const found = []
  hole.forEach((missing, i) => {
    if (!missing) return
    const row = Math.floor(i / size), column = i % size
    const inside = ([y, x]) => row + y >= 0 && row + y < size && column + x >= 0 && column + x < size
    found.push([i, reach.filter(inside).map(([y, x]) => i + y * size + x)])
  })
  return found
}

const FOUR = [[-1, 0], [1, 0], [0, -1], [0, 1]]
const EIGHT = [...FOUR, [-1, -1], [-1, 1], [1, -1], [1, 1]]

export function smoothFill(image, hole, size) {
  const x = greyFill(image, hole), area = hole.length, known = hole.map(missing => 1 - missing)
  for (let left = surroundings(hole, size, EIGHT); left.length;) {
    const reached = left.map(([i, near]) => [i, near.filter(j => known[j])]).filter(([, seen]) => seen.length)
    if (!reached.length) break  // nothing at all is known
    for (const [i, seen] of reached) for (let c = 0; c < 3; c++) {
      let sum = 0
      for (const j of seen) sum += x[c * area + j]
      x[c * area + i] = sum / seen.length
    }
    for (const [i] of reached) known[i] = 1
    left = left.filter(([i]) => !known[i])
  }
  return x
}

// Latents (D * N, as the encoder gives them) as rows of D; of length 1 if the model compares directions.
export function vectors(latents, n, normalize) {
  const dim = latents.length / n
  return Array.from({ length: n }, (_, i) => {
    const row = Float64Array.from({ length: dim }, (_, d) => latents[d * n + i])
    const length = normalize ? Math.max(1e-12, Math.hypot(...row)) : 1
    return row.map(value => value / length)
  })
}

export function squaredDistances(z, codebook) {
  const squares = new Float64Array(codebook.length)
  for (let k = 0; k < codebook.length; k++) for (let d = 0; d < z.length; d++) squares[k] += (z[d] - codebook[k][d]) ** 2
  return squares
}

const nearest = squares => likeliest(squares.map(square => -square))

// The lookup `bias(i)` of `decode`: -weight/2 * share seen * |z - code|^2 where a token is half seen.
export function visibleEvidence(distances, codebook, hole, size, grid, weight) {
  const patch = size / grid, seen = new Float64Array(grid * grid)
  hole.forEach((missing, i) => { seen[Math.floor(i / size / patch) * grid + Math.floor(i % size / patch)] += (1 - missing) / patch ** 2 })
  const unit = codebook.reduce((sum, code) => sum + code.reduce((a, value) => a + value ** 2, 0), 0) / codebook.length
  return i => weight && seen[i] ? Float32Array.from(distances[i], square => -0.5 * weight * seen[i] * square / unit) : null
}

export const composite = (image, made, hole) => made.map((value, i) => hole[i % hole.length] ? value : image[i])

export function harmonicFill(image, hole, size, rounds = 25) {
  const area = hole.length, missing = surroundings(hole, size, FOUR)
  let x = smoothFill(image, hole, size)
  for (let round = 0; round < rounds; round++) {
    const next = x.slice()
    for (const [i, near] of missing) for (let c = 0; c < 3; c++) {
      let sum = 0
      for (const j of near) sum += x[c * area + j]
      next[c * area + i] = sum / near.length
    }
    x = next
  }
  return x
}

export function poissonBlend(image, made, hole, size) {
  const correction = harmonicFill(image.map((value, i) => value - made[i]), hole, size)
  return composite(image, made.map((value, i) => Math.min(1, Math.max(-1, value + correction[i]))), hole)
}

// Mends a hole: yields the steps of `decode`, each with the `picture` after it, and returns the last. `model` has `config` (config.json of
// `maskgit-nb export`), `codebook` (K rows) and the networks `encode(pixels)`, `predict(tokens)`, `decode(tokens)`.
export async function* inpaint(model, image, hole, uniforms, options = {}) {
  const { fill = "smooth", evidence = 30, blend = true, dilate = 0 } = options
  const { image_size: size, grid, codebook_size: codes, l2_normalize } = model.config
  const mask = holeToMask(hole, size, grid, dilate)
  const filled = fill === "smooth" ? smoothFill(image, hole, size) : greyFill(image, hole)
  const z = vectors(await model.encode(filled), grid * grid, l2_normalize)
  const distances = z.map(row => squaredDistances(row, model.codebook))
  const bias = visibleEvidence(distances, model.codebook, hole, size, grid, evidence)
  const join = blend ? poissonBlend : composite
  for await (const step of decode(model.predict, Int32Array.from(distances, nearest), mask, codes, uniforms, options, bias))
    yield { ...step, picture: join(image, await model.decode(step.tokens), hole, size) }
}
