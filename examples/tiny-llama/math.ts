// The arithmetic of the forward pass, on the host, where an engine calls the NPU's kernels: the example runs on any machine.
// Vectors of several tokens are stored one after another, row by row.

/** An index out of range gives `undefined`, which turns every sum into NaN and so reveals the mistake. */
function at(values: Float32Array, index: number): number {
  return values[index] as number;
}

/** bf16 is the upper half of a float32. `target` and `source` have the same number of elements. */
export function widenBf16(source: Uint16Array, target: Float32Array): void {
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length);
  for (let index = 0; index < source.length; index++) bits[index] = (source[index] as number) << 16;
}

/** `output[row][column] = dot(input[row], weight[column])`: a linear layer as PyTorch stores it. */
export function linear(input: Float32Array, weight: Float32Array, inputWidth: number): Float32Array {
  const rows = input.length / inputWidth;
  const outputWidth = weight.length / inputWidth;
  const output = new Float32Array(rows * outputWidth);
  for (let column = 0; column < outputWidth; column++) {
    for (let row = 0; row < rows; row++) {
      output[row * outputWidth + column] = dot(
        input,
        row * inputWidth,
        weight,
        column * inputWidth,
        inputWidth,
      );
    }
  }
  return output;
}

function dot(
  left: Float32Array,
  leftStart: number,
  right: Float32Array,
  rightStart: number,
  length: number,
): number {
  let sum = 0;
  for (let index = 0; index < length; index++)
    sum += at(left, leftStart + index) * at(right, rightStart + index);
  return sum;
}

/** Each row divided by its root mean square, times the weight. */
export function rmsNorm(input: Float32Array, weight: Float32Array, epsilon: number): Float32Array {
  const width = weight.length;
  const output = new Float32Array(input.length);
  for (let start = 0; start < input.length; start += width) {
    const scale = 1 / Math.sqrt(dot(input, start, input, start, width) / width + epsilon);
    for (let index = 0; index < width; index++) {
      output[start + index] = at(input, start + index) * scale * at(weight, index);
    }
  }
  return output;
}

/**
 * Rotates each head by its token's position, in place and in the half-split convention: element `i` of a head pairs with
 * element `i + headWidth / 2`. `cosines` and `sines` hold `headWidth / 2` values for each token.
 */
export function rotate(
  heads: Float32Array,
  headWidth: number,
  cosines: Float32Array,
  sines: Float32Array,
): void {
  const half = headWidth / 2;
  const tokenWidth = (heads.length * half) / cosines.length;
  for (let start = 0; start < heads.length; start += headWidth) {
    const table = Math.floor(start / tokenWidth) * half;
    for (let index = 0; index < half; index++) {
      const cosine = at(cosines, table + index);
      const sine = at(sines, table + index);
      const first = at(heads, start + index);
      const second = at(heads, start + half + index);
      heads[start + index] = first * cosine - second * sine;
      heads[start + half + index] = second * cosine + first * sine;
    }
  }
}

/** Softmax over `values`, in place. */
function softmax(values: Float32Array): void {
  let highest = Number.NEGATIVE_INFINITY;
  for (const value of values) highest = Math.max(highest, value);
  let sum = 0;
  for (let index = 0; index < values.length; index++) {
    const exponential = Math.exp(at(values, index) - highest);
    values[index] = exponential;
    sum += exponential;
  }
  for (let index = 0; index < values.length; index++) values[index] = at(values, index) / sum;
}

/** `silu(gate) * up`, written over `gate`. */
export function swiGlu(gate: Float32Array, up: Float32Array): void {
  for (let index = 0; index < gate.length; index++) {
    const value = at(gate, index);
    gate[index] = (value / (1 + Math.exp(-value))) * at(up, index);
  }
}

export function addTo(target: Float32Array, source: Float32Array): void {
  for (let index = 0; index < target.length; index++) target[index] = at(target, index) + at(source, index);
}

/** The layout of the key-value heads in the cache: `[position][head][element]`. */
interface HeadLayout {
  readonly heads: number;
  readonly headWidth: number;
}

/**
 * Attention of one query head, which starts at `queryStart`, to one key-value head over the first `positions` positions.
 * The result is written to `output` at the position of the query.
 */
export function attend(
  queries: Float32Array,
  queryStart: number,
  keys: Float32Array,
  values: Float32Array,
  keyHead: number,
  positions: number,
  layout: HeadLayout,
  output: Float32Array,
): void {
  const { heads, headWidth } = layout;
  const scores = new Float32Array(positions);
  for (let position = 0; position < positions; position++) {
    const keyStart = (position * heads + keyHead) * headWidth;
    scores[position] = dot(queries, queryStart, keys, keyStart, headWidth) / Math.sqrt(headWidth);
  }
  softmax(scores);
  for (let position = 0; position < positions; position++) {
    const valueStart = (position * heads + keyHead) * headWidth;
    const score = at(scores, position);
    for (let index = 0; index < headWidth; index++) {
      output[queryStart + index] = at(output, queryStart + index) + score * at(values, valueStart + index);
    }
  }
}
