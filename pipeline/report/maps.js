// Pictures of what the layers hold: maps and weights as colours, and what of the image a pixel sees.

const GAP = 1, CELL = 6; // pixels: around each map, and each number of a row
const POSITIVE = [232, 89, 12], NEGATIVE = [28, 110, 214];
const OPACITY = Array.from({ length: 128 }, (_, level) => Math.round(255 * (level / 127) ** 0.7));

// Numbers [maps, rows, columns], or in a row, as a sheet on a canvas: a pixel for each number, or a
// square for each of a row. Orange is above zero, blue below, as in the pictures that figures.py draws.
function drawMaps(canvas, output, columns) {
  const { values, shape: [maps, height, width] } = asMaps(output), across = Math.min(columns, maps);
  canvas.width = across * (width + GAP) + GAP;
  canvas.height = Math.ceil(maps / across) * (height + GAP) + GAP;
  const context = canvas.getContext("2d"), sheet = context.createImageData(canvas.width, canvas.height);
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
  for (let map = 0, next = 0; map < maps; map += 1) {
    const [left, top] = placeOnSheet([maps, height, width], across, map);
    for (let row = 0; row < height; row += 1) {
      for (let column = 0; column < width; column += 1, next += 1) {
        const at = 4 * ((top + row) * canvas.width + left + column), value = values[next];
        [sheet.data[at], sheet.data[at + 1], sheet.data[at + 2]] = value > 0 ? POSITIVE : NEGATIVE;
        sheet.data[at + 3] = OPACITY[Math.round((127 * Math.abs(value)) / largest)];
      }
    }
  }
  context.putImageData(sheet, 0, 0);
  return context;
}

// A row of numbers becomes as many maps of one colour.
function asMaps({ values, shape }) {
  if (shape.length === 3) return { values, shape };
  const cells = new Float32Array(values.length * CELL ** 2);
  values.forEach((value, place) => cells.fill(value, place * CELL ** 2, (place + 1) * CELL ** 2));
  return { values: cells, shape: [shape[0], CELL, CELL] };
}

// How many maps lie next to each other: all layers' sheets are about as wide.
const columnsFor = ([maps, , width = CELL]) => Math.min(maps, width > 20 ? 8 : width > CELL ? 16 : 32);

// Where map and pixel lie on the sheet, and back.
function placeOnSheet([, height, width], across, map) {
  return [(map % across) * (width + GAP) + GAP, Math.floor(map / across) * (height + GAP) + GAP];
}

function findOnSheet([maps, height, width], across, x, y) {
  const column = clamp(Math.floor((x - GAP) / (width + GAP)), 0, across - 1);
  const row = Math.max(0, Math.floor((y - GAP) / (height + GAP)));
  const map = Math.min(row * across + column, maps - 1);
  const [left, top] = placeOnSheet([maps, height, width], across, map);
  const inside = [clamp(Math.floor(y - top), 0, height - 1), clamp(Math.floor(x - left), 0, width - 1)];
  return { map, row: inside[0], column: inside[1] };
}

// The rows and columns of the image that a rectangle of a step's output depends on, from first to
// last: through every window on the way back. A row of numbers depends on all there is.
function lookBack(network, place, rectangle) {
  if (!place) return rectangle;
  const step = network.steps[place - 1];
  const before = step.inputs.map((input) => {
    const shape = input ? network.steps[input - 1].shape : [1, SIDE, SIDE], [, height, width] = shape;
    const whole = { rows: [0, height - 1], columns: [0, width - 1] };
    if (step.shape.length !== 3 || shape.length !== 3) return lookBack(network, input, whole);
    if (!step.settings.kernel) return lookBack(network, input, rectangle);
    const rows = reach(rectangle.rows, step.settings, 0, height);
    const columns = reach(rectangle.columns, step.settings, 1, width);
    return lookBack(network, input, { rows, columns });
  });
  const join = (sides) => [Math.min(...sides.flat()), Math.max(...sides.flat())];
  return { rows: join(before.map(({ rows }) => rows)), columns: join(before.map(({ columns }) => columns)) };
}

function reach([first, last], { kernel, stride, padding, dilation }, axis, length) {
  const start = first * stride[axis] - padding[axis];
  const end = last * stride[axis] - padding[axis] + (kernel[axis] - 1) * dilation[axis];
  return [clamp(start, 0, length - 1), clamp(end, 0, length - 1)];
}

// The layer whose weights make a step's maps: its own, or an earlier one's that pooling, ReLU and
// the like only change number by number or map by map.
function weighingStep(network, place) {
  const step = network.steps[place - 1];
  if (!step || step.tensors.weight) return step;
  const before = network.steps[step.inputs[0] - 1];
  const isMapByMap = step.inputs.length === 1 && before && before.shape[0] === step.shape[0];
  return isMapByMap ? weighingStep(network, step.inputs[0]) : undefined;
}

// The weights of one map: of a filter [maps, rows, columns], of a sum as its input lay before it was
// laid end to end.
function weightsOf(network, step, map) {
  const { values, shape } = step.tensors.weight, size = countOf(shape.slice(1));
  const own = values.subarray(map * size, (map + 1) * size);
  if (shape.length === 4) return { values: own, shape: shape.slice(1) };
  let before = step.inputs[0];
  while (before && network.steps[before - 1].kind === "Same") [before] = network.steps[before - 1].inputs;
  return { values: own, shape: before ? network.steps[before - 1].shape : [1, SIDE, SIDE] };
}
