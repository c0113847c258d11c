// One layer of the network on the page: its maps, the weights behind the chosen one, and what of the
// drawing the chosen pixel looks at.

const number = (value) => value.toFixed(2).replace("-", "−");
const range = ([first, last]) => (first === last ? `${first + 1}` : `${first + 1}–${last + 1}`);

class LayerView {
  constructor(network, place, holder) {
    this.network = network;
    this.place = place;
    this.step = network.steps[place - 1];
    this.maps = this.step.shape[0];
    this.across = columnsFor(this.step.shape);
    this.chosen = { map: 0 };
    const { firstElementChild: row } = document.getElementById("layer-view").content.cloneNode(true);
    const [words, sheet] = row.children;
    const shape = document.createElement("span");
    shape.textContent = size(this.step.shape);
    words.firstElementChild.append(`${place}. ${this.step.name} `, shape);
    Object.assign(this, { sheet, look: words.querySelector(".look"), note: words.querySelector(".note") });
    holder.append(row);
    if (this.step.kind === "Same") this.leaveOut();
    else this.listen();
  }

  leaveOut() {
    this.look.remove();
    this.sheet.remove();
    this.note.textContent = "The same numbers. Nothing is computed.";
  }

  listen() {
    this.sheet.setAttribute("aria-label", `${this.step.name}, ${size(this.step.shape)}`);
    this.sheet.setAttribute("aria-valuemax", this.maps);
    this.sheet.addEventListener("keydown", (event) => this.press(event));
    this.sheet.addEventListener("pointermove", (event) => this.choose(this.find(event)));
    this.sheet.addEventListener("pointerdown", (event) => this.choose(this.find(event)));
    this.sheet.addEventListener("pointerleave", () => this.choose({ map: this.chosen.map }));
  }

  find(event) {
    const { x, y } = placeOn(this.sheet, event);
    return findOnSheet(asMaps(this.output).shape, this.across, x, y);
  }

  // A place on the sheet: the pixel is where the map is largest if none is named.
  choose(place) {
    this.chosen = place;
    this.draw();
  }

  press(event) {
    const way = ARROWS[event.key], { map, row, column } = this.chosenPixel();
    const ends = { Home: 0, End: this.maps - 1 };
    if (way && event.shiftKey) {
      const [, height, width] = asMaps(this.output).shape;
      const [down, across] = [clamp(row + way[1], 0, height - 1), clamp(column + way[0], 0, width - 1)];
      this.choose({ map, row: down, column: across });
    } else if (way) this.choose({ map: clamp(map + way[0] + way[1] * this.across, 0, this.maps - 1) });
    else if (event.key in ends) this.choose({ map: ends[event.key] });
    else return;
    event.preventDefault();
  }

  show(outputs, pixels) {
    if (this.step.kind === "Same") return;
    this.output = outputs[this.place];
    this.pixels = pixels;
    this.draw();
  }

  draw() {
    const pixel = this.chosenPixel(), { shape } = asMaps(this.output);
    const context = drawMaps(this.sheet, this.output, this.across);
    const [left, top] = placeOnSheet(shape, this.across, pixel.map);
    context.strokeStyle = context.fillStyle = colour("ink");
    context.strokeRect(left - 0.5, top - 0.5, shape[2] + 1, shape[1] + 1);
    if (this.isPixelChosen()) context.fillRect(left + pixel.column, top + pixel.row, 1, 1);
    const [rows, columns] = [[pixel.row, pixel.row], [pixel.column, pixel.column]];
    const seen = lookBack(this.network, this.place, { rows, columns });
    this.drawPart(seen);
    const words = [this.drawWeights(pixel.map), this.describe(pixel, seen)].join(" ");
    this.note.textContent = words;
    this.sheet.setAttribute("aria-valuenow", pixel.map + 1);
    this.sheet.setAttribute("aria-valuetext", words);
  }

  isPixelChosen() {
    return this.step.shape.length === 3 && this.chosen.row !== undefined;
  }

  chosenPixel() {
    const { map } = this.chosen;
    if (this.step.shape.length !== 3) return { map, row: 0, column: 0 };
    if (this.isPixelChosen()) return this.chosen;
    const largest = bestOf(mapOf(this.output, map)), width = this.step.shape[2];
    return { map, row: Math.floor(largest / width), column: largest % width };
  }

  // The drawing, pale but for what the pixel looks at.
  drawPart({ rows, columns }) {
    const canvas = this.look.firstElementChild, zoom = canvas.width / SIDE;
    const context = canvas.getContext("2d");
    const small = document.createElement("canvas");
    drawInk(small, this.pixels);
    small.getContext("2d").globalCompositeOperation = "source-in";
    Object.assign(small.getContext("2d"), { fillStyle: colour("ink") }).fillRect(0, 0, SIDE, SIDE);
    Object.assign(context, { imageSmoothingEnabled: false, globalAlpha: 0.3 });
    Object.assign(context, { strokeStyle: colour("second"), lineWidth: 2 });
    const box = [columns[0], rows[0], columns[1] - columns[0] + 1, rows[1] - rows[0] + 1];
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
    context.drawImage(small, ...box, ...box.map((side) => side * zoom));
    context.strokeRect(box[0] * zoom + 1, box[1] * zoom + 1, box[2] * zoom - 2, box[3] * zoom - 2);
    canvas.setAttribute("aria-label", "The part of the drawing that it looks at");
  }

  // The weights that made the map; in words what they are.
  drawWeights(map) {
    const canvas = this.look.lastElementChild, weighing = weighingStep(this.network, this.place);
    canvas.hidden = !weighing;
    const name = this.step.shape.length === 3 ? "Map" : "Number";
    const meaning = this.place === this.network.steps.length ? `, for ${this.network.classes[map]}` : "";
    const title = `${name} ${map + 1} of ${this.maps}${meaning}.`;
    if (!weighing) return title;
    const { weight, bias } = weighing.tensors, drawn = weightsOf(this.network, weighing, map);
    const [depth, tall, wide] = drawn.shape;
    drawMaps(canvas, drawn, depth > 64 ? 16 : depth > 16 ? 8 : 4);
    const own = weighing === this.step ? "Its" : `${weighing.name}’s`;
    const filter = `filter, ${size([tall, wide])}${depth > 1 ? ` for each of ${depth} maps` : ""}`;
    const kind = weight.shape.length === 4 ? filter : `${drawn.values.length.toLocaleString("en")} weights`;
    canvas.setAttribute("aria-label", `${own} ${kind}`);
    return `${title} ${own} ${kind}${bias ? `, bias ${number(bias.values[map])}` : ""}.`;
  }

  describe({ map, row, column }, { rows, columns }) {
    if (this.step.shape.length !== 3) return `It is ${number(this.output.values[map])}, from the whole drawing.`;
    const place = `${this.isPixelChosen() ? "Row" : "Largest in row"} ${row + 1}, column ${column + 1}`;
    const value = number(mapOf(this.output, map)[row * this.step.shape[2] + column]);
    return `${place}: ${value}. It looks at rows ${range(rows)}, columns ${range(columns)} of the drawing.`;
  }
}
