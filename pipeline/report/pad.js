// Where the reader draws: strokes of a pen, a finger, the mouse or the arrow keys, on an image or on
// blank paper. It keeps the strokes, not pixels, so that each can be undone.

const PEN = 22, NUDGE = 12; // of its 280 pixels: the pen's width, a step of an arrow key
const EVENTS = {
  pointerdown: "begin",
  pointermove: "draw",
  pointerup: "end",
  pointercancel: "end",
  keydown: "press",
  blur: "leave",
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

class Pad {
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.size = canvas.width;
    this.onChange = onChange;
    this.paper = document.createElement("canvas"); // without the pen's mark
    this.paper.width = this.paper.height = this.size;
    this.history = []; // images, strokes, and null for blank paper, in their order
    this.stroke = null; // the one that is being drawn
    this.pen = null; // of the keyboard: where it is and whether it draws
    for (const [type, act] of Object.entries(EVENTS)) {
      canvas.addEventListener(type, (event) => this[act](event));
    }
  }

  // Start from an image of the page; `isSample` if the first stroke shall replace it.
  start(pixels, isSample = false) {
    this.history.push({ pixels, isSample });
    this.rest();
  }

  clear() {
    if (this.layers().length) this.history.push({ pixels: null });
    this.rest();
  }

  undo() {
    this.history.pop();
    this.rest();
  }

  begin(event) {
    if (event.button) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.rest();
    this.put(placeOn(this.canvas, event));
  }

  draw(event) {
    if (!this.stroke || this.pen) return;
    const events = event.getCoalescedEvents?.() ?? [];
    this.stroke.push(...(events.length ? events : [event]).map((each) => placeOn(this.canvas, each)));
    this.show();
  }

  end() {
    if (!this.pen) this.stroke = null;
  }

  // Puts the pen on the paper: a stroke begins.
  put(point) {
    if (this.history.at(-1)?.isSample) this.history.push({ pixels: null });
    this.stroke = [point];
    this.history.push({ stroke: this.stroke });
    this.show();
  }

  press(event) {
    const way = ARROWS[event.key];
    if (way) this.nudge(way, event.shiftKey ? 0.25 : 1);
    else if (event.key === " ") this.lift();
    else if (event.key === "Backspace") this.undo();
    else if (event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
  }

  nudge(way, share) {
    const { x, y } = this.pen ?? { x: this.size / 2, y: this.size / 2 };
    const onPaper = (side) => clamp(side, PEN / 2, this.size - PEN / 2);
    this.pen = { x: onPaper(x + way[0] * NUDGE * share), y: onPaper(y + way[1] * NUDGE * share) };
    this.stroke?.push(this.pen);
    this.show();
  }

  // The pen of the keyboard goes down, or up again.
  lift() {
    this.pen ??= { x: this.size / 2, y: this.size / 2 };
    if (this.stroke) this.stroke = null;
    else this.put(this.pen);
    this.show();
  }

  leave() {
    if (this.pen) this.rest();
  }

  rest() {
    this.stroke = this.pen = null;
    this.show();
  }

  // What lies on the paper: the last image and the strokes after it.
  layers() {
    const from = this.history.findLastIndex(({ pixels }) => pixels !== undefined);
    return this.history.slice(Math.max(from, 0)).filter(({ pixels }) => pixels !== null);
  }

  // An image that nothing is drawn on, as the page has it; else the grey levels of the paper.
  read() {
    const [first, ...others] = this.layers();
    if (first?.pixels && !others.length) return { pixels: first.pixels };
    const { data } = this.paper.getContext("2d").getImageData(0, 0, this.size, this.size);
    const values = Float64Array.from({ length: this.size ** 2 }, (_, place) => data[4 * place + 3]);
    return { values, height: this.size, width: this.size };
  }

  show() {
    const context = this.paper.getContext("2d", { willReadFrequently: true });
    context.clearRect(0, 0, this.size, this.size);
    for (const layer of this.layers()) {
      if (layer.stroke) line(context, layer.stroke);
      else spread(context, layer.pixels, this.size);
    }
    const shown = this.canvas.getContext("2d");
    shown.clearRect(0, 0, this.size, this.size);
    shown.drawImage(this.paper, 0, 0);
    if (this.pen) ring(shown, this.pen, Boolean(this.stroke));
    this.onChange();
  }
}

// Where a pointer is, in the pixels of a canvas.
function placeOn(canvas, { clientX, clientY }) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return { x: ((clientX - left) / width) * canvas.width, y: ((clientY - top) / height) * canvas.height };
}

function line(context, points) {
  const [first, ...others] = points;
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
  context.beginPath();
  context.moveTo(first.x, first.y);
  if (!others.length) context.lineTo(first.x, first.y);
  others.forEach((point, place) => {
    const next = others[place + 1];
    if (next) context.quadraticCurveTo(point.x, point.y, (point.x + next.x) / 2, (point.y + next.y) / 2);
    else context.lineTo(point.x, point.y);
  });
  context.stroke();
}

// 28 × 28 pixels over the whole paper.
function spread(context, pixels, size) {
  const small = document.createElement("canvas");
  drawInk(small, pixels);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, size, size);
}

// Pixels as ink on a clear ground.
function drawInk(canvas, pixels) {
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d"), image = context.createImageData(SIDE, SIDE);
  pixels.forEach((grey, place) => { image.data[4 * place + 3] = grey; });
  context.putImageData(image, 0, 0);
}

function ring(context, { x, y }, isDown) {
  Object.assign(context, { lineWidth: 3, strokeStyle: isDown ? "#e8590c" : "#888" });
  context.beginPath();
  context.arc(x, y, PEN / 2 + 2, 0, 2 * Math.PI);
  context.stroke();
}
