// The reader's desk: what is drawn goes through the network, and the page shows the whole way.

const QUIET = 500; // milliseconds without a change before a screen reader is told
const SLICE = 10; // milliseconds of work between two chances to draw

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const size = (shape) => shape.join("\u00a0×\u00a0");
const bestOf = (numbers) => numbers.indexOf(Math.max(...numbers));

function openDesk(network) {
  const section = document.getElementById("draw"), refusal = document.getElementById("refusal");
  const isRight = isAsEvaluated(network);
  const unwanted = isRight ? [refusal] : [...section.children].slice(1).filter((part) => part !== refusal);
  for (const part of unwanted) part.remove();
  const link = document.querySelector("nav a[href='#draw']");
  for (const shown of [section, refusal, link]) shown.hidden = false;
  if (isRight) new Desk(network, section).open();
}

// Whether an image gets the logits here that it got when the network was measured.
function isAsEvaluated(network) {
  const logits = logitsOf(network, forward(network, network.check.pixels));
  const isNear = (logit, expected) => Math.abs(logit - expected) < 0.05 * Math.max(1, Math.abs(expected));
  return logits.every((logit, place) => isNear(logit, network.check.logits[place]));
}

class Desk {
  constructor(network, section) {
    const find = (name) => section.querySelector(name);
    this.network = network;
    this.pad = new Pad(find("#pad"), () => this.look());
    this.seen = find("#seen");
    this.asIs = find("#as-is");
    this.verdict = find("#verdict");
    this.heard = find("#heard");
    this.odds = [...section.querySelectorAll(".odds tr")];
    this.reasons = find("#reasons");
    this.changes = find("#changes");
    this.views = network.steps.map((_, place) => new LayerView(network, place + 1, find("#live")));
    this.names = this.odds.map((row) => row.cells[0].textContent);
    find("#undo").addEventListener("click", () => this.pad.undo());
    find("#clear").addEventListener("click", () => this.pad.clear());
    this.changes.addEventListener("input", () => this.plan());
    this.changes.addEventListener("reset", () => setTimeout(() => this.plan()));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plan());
  }

  open() {
    this.changes.reset(); // a reloaded page may come with the values of before
    offerImages(document.querySelectorAll(".examples .digit"), this, document.getElementById("starts"));
    offerImages(document.querySelectorAll(".mistakes .digit"), this);
    this.pad.start(Uint8Array.from(this.network.check.pixels), true);
  }

  // Something else is on the paper: what was found of the drawing before fades.
  look() {
    this.drawn = this.image = undefined;
    for (const band of this.changes.querySelectorAll("canvas")) band.classList.add("old");
    this.plan();
  }

  // Whatever changes is shown when the browser next draws. Work on what was before ends.
  plan() {
    this.current = undefined;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.show();
    });
  }

  show() {
    if (!this.drawn) {
      this.drawn = this.pad.read();
      this.image = this.drawn.pixels ?? prepare(this.drawn, this.network.preparation);
      this.asIs.hidden = !this.drawn.pixels;
    }
    this.reasons.classList.add("old");
    const pixels = this.image ? change(this.image, this.readSliders()) : new Float32Array(SIDE * SIDE);
    drawInk(this.seen, pixels);
    const outputs = forward(this.network, pixels);
    this.read(outputs);
    for (const view of this.views) view.show(outputs, pixels);
    clearTimeout(this.later);
    this.later = setTimeout(() => this.settle(pixels), QUIET);
  }

  readSliders() {
    const inputs = [...this.changes.querySelectorAll("input")];
    for (const input of inputs) {
      const words = `${input.value}${input.dataset.unit}`.replace("-", "−");
      input.setAttribute("aria-valuetext", words);
      input.previousElementSibling.textContent = words;
    }
    return Object.fromEntries(inputs.map(({ id, value }) => [id, Number(value)]));
  }

  // The probabilities as bars, the largest in words.
  read(outputs) {
    this.logits = logitsOf(this.network, outputs);
    const odds = this.image ? softmax(this.logits) : this.logits.map(() => 0);
    this.best = bestOf(this.logits);
    odds.forEach((share, place) => {
      const [, bar, words] = this.odds[place].cells;
      bar.firstElementChild.style.setProperty("--share", share.toFixed(4));
      words.textContent = percent(share);
      this.odds[place].classList.toggle("best", Boolean(this.image) && place === this.best);
    });
    const [name, sure] = [this.names[this.best], percent(odds[this.best])];
    const before = this.image && bestOf(logitsOf(this.network, forward(this.network, this.image)));
    const hasTipped = this.image && before !== this.best;
    const tipped = hasTipped ? `It reads ${this.names[before]} without the changes.` : "";
    this.words = this.image ? `Reads as ${name}, ${sure}. ${tipped}`.trim() : "Nothing is drawn.";
    const [figure, note] = [document.createElement("b"), document.createElement("span")];
    figure.textContent = name;
    figure.classList.toggle("long", name.length > 2);
    Object.assign(note, { className: "before", textContent: tipped });
    this.verdict.replaceChildren(...(this.image ? [figure, sure, note] : ["Nothing is drawn."]));
  }

  // What takes longer waits until the reader pauses, and goes on between what the browser has to do.
  settle(pixels) {
    this.heard.textContent = this.words;
    const work = this.image ? this.work(pixels) : this.wipe();
    const go = () => {
      const start = performance.now();
      while (performance.now() - start < SLICE) if (work !== this.current || work.next().done) return;
      this.later = setTimeout(go);
    };
    this.current = work;
    go();
  }

  *work(pixels) {
    const second = bestOf(this.logits.map((logit, place) => (place === this.best ? -Infinity : logit)));
    const reasons = yield* weighPlaces(this.network, pixels, this.best, second);
    const [one, other] = [this.names[this.best], this.names[second]];
    this.explain(reasons, `What speaks for ${one} (orange) and for ${other} (blue)`);
    const reading = bestOf(logitsOf(this.network, forward(this.network, this.image)));
    for (const input of this.changes.querySelectorAll("input")) {
      if (input.nextElementSibling.classList.contains("old")) yield* this.findTips(input, reading);
    }
  }

  *wipe() {
    this.explain(new Float32Array(SIDE * SIDE), "");
  }

  explain(reasons, words) {
    const [canvas, caption] = this.reasons.children;
    this.reasons.classList.remove("old");
    drawMaps(canvas, { values: reasons, shape: [1, SIDE, SIDE] }, 1);
    if (words) canvas.setAttribute("aria-label", words);
    caption.textContent = words;
  }

  // The values of a slider at which the reading stays, as a band under it.
  *findTips(input, reading) {
    const [low, high, step] = [input.min, input.max, input.step].map(Number), kept = [];
    for (let value = low; value <= high; value += step) {
      const changed = change(this.image, { ...UNCHANGED, [input.id]: value });
      kept.push(bestOf(logitsOf(this.network, forward(this.network, changed))) === reading);
      yield;
    }
    const band = input.nextElementSibling;
    band.width = kept.length;
    band.classList.remove("old");
    const context = band.getContext("2d");
    context.fillStyle = colour("first");
    kept.forEach((is, place) => is && context.fillRect(place, 0, 1, 1));
  }
}

// Makes buttons of images of the page: in the place of each, or as copies in `holder`.
function offerImages(images, desk, holder) {
  for (const image of images) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "start", title: `Draw on this: ${image.alt}` });
    if (!holder) image.replaceWith(button);
    button.append(holder ? image.cloneNode() : image);
    holder?.append(button);
    button.addEventListener("click", async () => {
      desk.pad.start(await readPixels(image));
      if (!holder) location.hash = "draw";
      desk.pad.canvas.focus({ preventScroll: !holder });
    });
  }
}

// The pixels of an image of the page, which is dark on light.
async function readPixels(image) {
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  return Uint8Array.from({ length: SIDE * SIDE }, (_, place) => 255 - data[4 * place]);
}

// A page that carries no network, or one that this browser computes otherwise, stays as it was.
const source = document.getElementById("network");
if (source) openDesk(readNetwork(source.textContent));
