// The network at work: how an image becomes a number for each class, layer by layer.
//
// Every layer takes numbers and gives numbers. They lie in one row, map after map, and the shape
// says how to cut it: [32, 28, 28] is 32 maps of 28 rows of 28. So pixel (row, column) of a map is
// number map * 28 * 28 + row * 28 + column. What the layers know is their weights, found in training.

const countOf = (shape) => shape.reduce((product, side) => product * side, 1);

// One map of several, still the same numbers.
function mapOf({ values, shape: [, rows, columns] }, map) {
  return values.subarray(map * rows * columns, (map + 1) * rows * columns);
}

const pointwise = (bend) => (step, input) => input.values.map((value) => bend(value, step.settings.slope));

const COMPUTE = {
  // A filter is a small window of weights for each map of the input. It slides over them; what is
  // under it is multiplied by its weights and added up. That is one pixel of the filter's own map.
  Conv2d(step, input) {
    const { shape, settings: { groups }, tensors: { weight, bias } } = step;
    const [filters, depth, tall, wide] = weight.shape;
    const output = { values: new Float32Array(countOf(shape)), shape };
    let next = 0;
    for (let filter = 0; filter < filters; filter += 1) {
      const made = mapOf(output, filter).fill(bias ? bias.values[filter] : 0);
      const first = Math.floor((filter * groups) / filters) * depth;
      for (let map = first; map < first + depth; map += 1) {
        const pixels = mapOf(input, map);
        for (let down = 0; down < tall; down += 1) {
          for (let across = 0; across < wide; across += 1) {
            addShifted(made, step, pixels, input.shape, [down, across], weight.values[next++]);
          }
        }
      }
    }
    return output.values;
  },

  // The largest number in each window, or their mean. Where a window hangs over the edge, only what
  // is inside counts.
  MaxPool2d: (step, input) => pool(step, input, -Infinity, Math.max),
  AvgPool2d(step, input) {
    const sums = pool(step, input, 0, (sum, value) => sum + value);
    return sums.map((sum) => sum / countOf(step.settings.kernel));
  },

  // Each output weighs all the numbers there are, and adds them up.
  Linear({ shape: [outputs], tensors: { weight, bias } }, { values }) {
    const made = new Float32Array(outputs);
    for (let output = 0, next = 0; output < outputs; output += 1) {
      let sum = bias ? bias.values[output] : 0;
      for (let place = 0; place < values.length; place += 1) sum += weight.values[next++] * values[place];
      made[output] = sum;
    }
    return made;
  },

  // Brings every map to a similar range. In use it is one product and one sum.
  BatchNorm({ tensors: { scale, shift } }, { values, shape }) {
    const mapAt = (place) => Math.floor((place * shape[0]) / values.length);
    return values.map((value, place) => value * scale.values[mapAt(place)] + shift.values[mapAt(place)]);
  },

  ReLU: pointwise((value) => Math.max(value, 0)), // below zero to zero
  LeakyReLU: pointwise((value, slope) => (value < 0 ? slope * value : value)),
  ELU: pointwise((value, slope) => (value < 0 ? slope * Math.expm1(value) : value)),
  SiLU: pointwise((value) => value / (1 + Math.exp(-value))),
  Sigmoid: pointwise((value) => 1 / (1 + Math.exp(-value))),
  Tanh: pointwise(Math.tanh),
  Add: (step, one, other) => one.values.map((value, place) => value + other.values[place]),
  Same: (step, input) => input.values, // another shape at most
};

// Add one weight of a filter, times the pixels under it wherever the filter stands: a whole map at
// once. For a stride of 1 that is the map itself, moved by the weight's place in the filter.
function addShifted(made, { shape, settings }, pixels, [, height, width], place, weight) {
  const [, rows, columns] = shape, { stride, padding, dilation } = settings;
  const top = place[0] * dilation[0] - padding[0], left = place[1] * dilation[1] - padding[1];
  const [first, last] = inside(left, stride[1], width, columns);
  for (let row = 0; row < rows; row += 1) {
    const y = row * stride[0] + top;
    if (y < 0 || y >= height) continue; // in the border of zeros
    const from = y * width + left, to = row * columns;
    for (let column = first; column <= last; column += 1) {
      made[to + column] += weight * pixels[from + column * stride[1]];
    }
  }
}

// The first and the last place at which a window's pixel is inside of a row.
function inside(offset, stride, width, places) {
  const last = Math.floor((width - 1 - offset) / stride);
  return [Math.max(0, Math.ceil(-offset / stride)), Math.min(places - 1, last)];
}

function pool({ shape, settings: { kernel, stride, padding, dilation } }, input, start, join) {
  const [maps, rows, columns] = shape, [, height, width] = input.shape;
  const made = new Float32Array(countOf(shape));
  for (let map = 0, next = 0; map < maps; map += 1) {
    const pixels = mapOf(input, map);
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1, next += 1) {
        let kept = start;
        for (let down = 0; down < kernel[0]; down += 1) {
          const y = row * stride[0] - padding[0] + down * dilation[0];
          for (let across = 0; y >= 0 && y < height && across < kernel[1]; across += 1) {
            const x = column * stride[1] - padding[1] + across * dilation[1];
            if (x >= 0 && x < width) kept = join(kept, pixels[y * width + x]);
          }
        }
        made[next] = kept;
      }
    }
  }
  return made;
}

// The whole way of an image, 28 × 28 grey levels from 0 (paper) to 255 (ink). The answer has the
// output of every step, the image first: outputs[0], and last the logits.
function forward(network, pixels) {
  const values = Float32Array.from(pixels, (grey) => (grey / 255 - network.mean) / network.std);
  const outputs = [{ values, shape: [1, 28, 28] }];
  for (const step of network.steps) {
    const inputs = step.inputs.map((place) => outputs[place]);
    outputs.push({ values: COMPUTE[step.kind](step, ...inputs), shape: step.shape });
  }
  return outputs;
}

// One number for each class. Divided by the temperature they say how sure the network may be.
function logitsOf(network, outputs) {
  return Array.from(outputs.at(-1).values, (value) => value / network.temperature);
}

// Probabilities: all above zero, and 1 together.
function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

// A weight is 16 bits: a sign, 5 bits of exponent, 10 of fraction. Moved to where a number of 32
// bits has them, all that is wrong is the exponent's origin, 15 for 127.
function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const bits = new Uint32Array(bytes.length / 2);
  bits.forEach((_, place) => {
    const half = bytes[2 * place] | (bytes[2 * place + 1] << 8);
    bits[place] = ((half & 0x8000) << 16) | ((half & 0x7fff) << 13);
  });
  return new Float32Array(bits.buffer).map((value) => value * 2 ** 112);
}

// The network as the page carries it, with its weights unpacked.
function readNetwork(text) {
  const network = JSON.parse(text);
  for (const { tensors } of network.steps) {
    for (const tensor of Object.values(tensors)) {
      tensor.values = tensor.packed ? unpack(tensor.packed) : Float32Array.from(tensor.numbers);
    }
  }
  return network;
}
