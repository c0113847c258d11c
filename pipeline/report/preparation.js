// A drawing in the form of the data set's images: what `mnist predict` does with an image file, step
// by step as in pipeline/mnist/preparation.py.

const SIDE = 28, BOX = 20; // pixels
const MIN_CONTRAST = 16; // of 255 grey levels; less is blank
const MIN_PART = 1 / 20; // of the largest part; a smaller one is a speck
const EDGE = 1 / 20; // of the contrast; fainter edges of clothes are trimmed

// As Python rounds: halves to the even neighbour.
function round(value) {
  const down = Math.floor(value);
  if (value - down !== 0.5) return Math.round(value);
  return down % 2 ? down + 1 : down;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const largestOf = (values) => values.reduce((high, value) => Math.max(high, value));

// The value below which a share of the numbers lies, between two of them in proportion.
function quantile(numbers, share) {
  const sorted = Float64Array.from(numbers).sort(), place = share * (sorted.length - 1);
  const low = Math.floor(place), next = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (place - low) * (sorted[next] - sorted[low]);
}

// Grey levels [height × width] → 28 × 28 pixels, light on black; null if nothing stands out.
function prepare({ values: levels, height, width }, preparation) {
  const values = Float64Array.from(levels);
  const around = surroundings(values, height, width, preparation);
  const background = quantile(around, 0.5);
  const darkest = values.reduce((low, value) => Math.min(low, value)), lightest = largestOf(values);
  const isDark = background - darkest > lightest - background;
  const contrast = isDark ? background - darkest : lightest - background;
  if (contrast < MIN_CONTRAST) return null;
  const grain = quantile(around.map((value) => Math.abs(value - background)), 0.75);
  const noise = Math.min(3 * grain, contrast / 2);
  const ink = values.map((value) => Math.max(0, isDark ? background - value : value - background));
  const drawing = { values: ink.map((value) => (value <= noise ? 0 : value)), height, width };
  return preparation === "fitted" ? fit(drawing) : center(drawing);
}

// The border shows the background; clothes touch it, but not in the corners.
function surroundings(values, height, width, preparation) {
  if (preparation === "fitted") {
    const [tall, wide] = [Math.ceil(height / SIDE), Math.ceil(width / SIDE)];
    const isEnd = (place, length, side) => place < side || place >= length - side;
    const isCorner = (row, column) => isEnd(row, height, tall) && isEnd(column, width, wide);
    return values.filter((_, place) => isCorner(Math.floor(place / width), place % width));
  }
  const ends = [...values.subarray(0, width), ...values.subarray((height - 1) * width)];
  const sides = values.filter((_, place) => place % width === 0 || place % width === width - 1);
  return Float64Array.of(...ends, ...sides);
}

// A digit: without specks, 20 pixels long, its centre of mass in the middle.
function center(drawing) {
  const sizes = sizesOfParts(drawing, 0), largest = largestOf(sizes);
  const isDrawn = (place) => sizes[place] >= MIN_PART * largest;
  const clean = { ...drawing, values: drawing.values.map((value, place) => (isDrawn(place) ? value : 0)) };
  const fitted = scale(crop(clean, (place) => clean.values[place] > 0), BOX);
  let total = 0, down = 0, across = 0;
  fitted.values.forEach((value, place) => {
    total += value;
    down += value * Math.floor(place / fitted.width);
    across += value * (place % fitted.width);
  });
  const top = clamp(round(SIDE / 2 - down / total), 0, SIDE - fitted.height);
  return put(fitted, top, clamp(round(SIDE / 2 - across / total), 0, SIDE - fitted.width));
}

// Clothes: as long as the frame, the other way in its middle.
function fit(drawing) {
  const { values, height, width } = drawing;
  const sizes = sizesOfParts(drawing, EDGE * largestOf(values)), largest = largestOf(sizes);
  const pixel = (Math.max(height, width) / SIDE) ** 2;
  const fitted = scale(crop(drawing, (place) => sizes[place] >= Math.min(pixel / 4, largest)), SIDE);
  return put(fitted, Math.floor((SIDE - fitted.height + 1) / 2), Math.floor((SIDE - fitted.width + 1) / 2));
}

function put(image, top, left) {
  const pixels = new Uint8Array(SIDE * SIDE);
  image.values.forEach((value, place) => {
    pixels[(top + Math.floor(place / image.width)) * SIDE + left + (place % image.width)] = round(value);
  });
  return pixels;
}

// For each pixel the size of the connected part that it is of, in pixels; 0 if it is of none.
function sizesOfParts({ values, height, width }, threshold) {
  const sizes = new Float64Array(values.length), seen = new Uint8Array(values.length);
  for (let start = 0; start < values.length; start += 1) {
    if (seen[start] || values[start] <= threshold) continue;
    const part = [start];
    seen[start] = 1;
    for (let next = 0; next < part.length; next += 1) {
      const row = Math.floor(part[next] / width), column = part[next] % width;
      for (let y = Math.max(row - 1, 0); y <= Math.min(row + 1, height - 1); y += 1) {
        for (let x = Math.max(column - 1, 0); x <= Math.min(column + 1, width - 1); x += 1) {
          const place = y * width + x;
          if (seen[place] || values[place] <= threshold) continue;
          seen[place] = 1;
          part.push(place);
        }
      }
    }
    for (const place of part) sizes[place] = part.length;
  }
  return sizes;
}

// The smallest rectangle with all that is shown.
function crop({ values, height, width }, isShown) {
  let top = height, bottom = 0, left = width, right = 0;
  for (let place = 0; place < values.length; place += 1) {
    if (!isShown(place)) continue;
    const row = Math.floor(place / width), column = place % width;
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
  }
  const cut = { values: [], height: bottom - top + 1, width: right - left + 1 };
  for (let row = top; row <= bottom; row += 1) {
    cut.values.push(...values.subarray(row * width + left, row * width + right + 1));
  }
  return cut;
}

// Makes the longest side `size` pixels long, and the brightest pixel 255.
function scale({ values, height, width }, size) {
  const longest = Math.max(height, width);
  const [tall, wide] = [height, width].map((side) => Math.max(1, round((size * side) / longest)));
  const rows = resample(values, height, width, wide); // of `wide` pixels
  const columns = resample(transpose(rows, height, wide), wide, height, tall);
  const fitted = Array.from(transpose(columns, wide, tall), (value) => Math.max(value, 0));
  const brightest = largestOf(fitted);
  return { values: fitted.map((value) => (255 * value) / brightest), height: tall, width: wide };
}

function transpose(values, height, width) {
  const turned = new Float32Array(values.length);
  values.forEach((value, place) => {
    turned[(place % width) * height + Math.floor(place / width)] = value;
  });
  return turned;
}

// Changes the length of every row, by Lanczos' filter of three lobes, as Pillow does it.
function resample(values, height, width, length) {
  const step = width / length, blur = Math.max(step, 1), made = new Float32Array(height * length);
  for (let column = 0; column < length; column += 1) {
    const middle = (column + 0.5) * step;
    const first = Math.max(0, Math.floor(middle - 3 * blur + 0.5));
    const end = Math.min(width, Math.floor(middle + 3 * blur + 0.5));
    const weights = [];
    for (let place = first; place < end; place += 1) weights.push(lanczos((place - middle + 0.5) / blur));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (let row = 0; row < height; row += 1) {
      let sum = 0;
      for (let place = first; place < end; place += 1) {
        sum += (weights[place - first] / total) * values[row * width + place];
      }
      made[row * length + column] = sum;
    }
  }
  return made;
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const lanczos = (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0);
