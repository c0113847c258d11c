// What a reader does to the 28 × 28 pixels to see when the reading tips: each change with its slider.

const UNCHANGED = { rotate: 0, shift: 0, cover: 0, noise: 0 };

// Turned by degrees around the middle, moved to the right by pixels, then noise, then rows covered.
function change(pixels, { rotate, shift, cover, noise }) {
  const moved = rotate || shift ? move(pixels, (rotate * Math.PI) / 180, shift) : Float32Array.from(pixels);
  const noisy = noise ? moved.map((grey, place) => clamp(grey + noise * 2.55 * NOISE[place], 0, 255)) : moved;
  return noisy.fill(0, 0, cover * SIDE);
}

function move(pixels, angle, shift) {
  const middle = (SIDE - 1) / 2, [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  return Float32Array.from(pixels, (_, place) => {
    const x = (place % SIDE) - middle - shift, y = Math.floor(place / SIDE) - middle;
    return between(pixels, middle + cos * x + sin * y, middle - sin * x + cos * y);
  });
}

// The grey level between four pixels, each as near as it is.
function between(pixels, x, y) {
  const left = Math.floor(x), top = Math.floor(y), [right, down] = [x - left, y - top];
  const isInside = (side) => side >= 0 && side < SIDE;
  const at = (column, row) => (isInside(column) && isInside(row) ? pixels[row * SIDE + column] : 0);
  return (1 - down) * ((1 - right) * at(left, top) + right * at(left + 1, top))
    + down * ((1 - right) * at(left, top + 1) + right * at(left + 1, top + 1));
}

// Always the same noise, so that the slider makes it stronger and not another: normally distributed,
// from the generator mulberry32.
const NOISE = (() => {
  let state = 1;
  const draw = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
  return Float32Array.from({ length: SIDE * SIDE }, normal);
})();

// What speaks for one class against another: how much the difference of their logits falls when a
// square of paper covers a place. A generator, because it takes 196 forward passes: it yields after each.
function* weighPlaces(network, pixels, one, other) {
  const square = 4, step = 2, margin = (logits) => logits[one] - logits[other];
  const paper = Float32Array.from(pixels);
  const [sums, counts] = [new Float32Array(SIDE * SIDE), new Float32Array(SIDE * SIDE)];
  const before = margin(logitsOf(network, forward(network, pixels)));
  for (let top = 0; top <= SIDE - square; top += step) {
    for (let left = 0; left <= SIDE - square; left += step) {
      const places = Array.from(
        { length: square ** 2 },
        (_, place) => (top + Math.floor(place / square)) * SIDE + left + (place % square),
      );
      const isInk = places.some((place) => pixels[place] > 0);
      places.forEach((place) => { paper[place] = 0; });
      const fall = isInk ? before - margin(logitsOf(network, forward(network, paper))) : 0;
      places.forEach((place) => {
        paper[place] = pixels[place];
        sums[place] += fall;
        counts[place] += 1;
      });
      if (isInk) yield;
    }
  }
  return sums.map((sum, place) => sum / counts[place]);
}
