// A canvas to draw on: with a pointer, or with the keyboard. What is drawn is kept apart from what lies under it, so
// that it can be erased, and is exported as ink on black, one PNG without loss.

import { announce, h, newId } from "./dom.js";
import { imageOf } from "./pictures.js";
import { KEYS_HELP, SketchKeys } from "./sketch-keys.js";

const FINE = 512; // pixels of the shorter side that lines are at least drawn with
const MASK = "#fb8b3c"; // of what is painted over a picture
const UNDO = 64 * 2 ** 20; // bytes of what can be taken back

const layer = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

/** Draws a picture over a canvas as the server fits it: "crop", "pad" or "stretch". */
function drawFitted(context, image, fit) {
  const { width, height } = context.canvas;
  const across = width / image.naturalWidth;
  const down = height / image.naturalHeight;
  const scale = fit === "pad" ? Math.min(across, down) : Math.max(across, down);
  const w = fit === "stretch" ? width : image.naturalWidth * scale;
  const t = fit === "stretch" ? height : image.naturalHeight * scale;
  context.drawImage(image, (width - w) / 2, (height - t) / 2, w, t);
}

export class Sketch {
  #past = [];
  #future = [];
  #stroke = null;
  #pointer = null; // that draws: a palm beside it does not
  #loads = 0;
  #lays = 0;
  #under = null;
  #original = null; // what was loaded, while nothing is changed: it is exported as it came

  /** `mask`: white where something holds, shown over a picture. `onchange` is called after each stroke. */
  constructor({ label, mask = false, onchange = () => {} }) {
    this.mask = mask;
    this.onchange = onchange;
    this.erasing = false;
    const help = h("p", { className: "hidden", id: newId("help") }, KEYS_HELP);
    this.canvas = h("canvas", { tabIndex: 0, role: "application", "aria-label": label, "aria-describedby": help.id });
    this.context = this.canvas.getContext("2d");
    this.node = h("div", { className: mask ? "sketch mask" : "sketch" }, this.canvas, this.#tools(label), help);
    this.keys = new SketchKeys(this);
    this.resize(128, 128);
    this.#listen();
  }

  /** The size that is drawn; what was drawn is scaled to it. */
  resize(width, height) {
    if (this.width === width && this.height === height) return;
    this.width = width;
    this.height = height;
    this.scale = Math.max(1, Math.ceil(FINE / Math.min(width, height)));
    const before = this.ink;
    this.ink = layer(width * this.scale, height * this.scale);
    this.canvas.width = this.ink.width;
    this.canvas.height = this.ink.height;
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    if (before) this.#inkContext().drawImage(before, 0, 0, this.ink.width, this.ink.height);
    this.#past = [];
    this.#future = [];
    this.#original = null;
    this.keys.cursor = this.keys.point = null;
    this.show();
  }

  get isBlank() {
    if (this.#original) return false;
    const { data } = this.#inkContext().getImageData(0, 0, this.ink.width, this.ink.height);
    for (let at = 0; at < data.length; at += 4) if (data[at + 3] && (data[at] || data[at + 1] || data[at + 2])) return false;
    return true;
  }

  /** Base64 of a PNG: as fine as it was drawn, or in exactly the size of the image. */
  export(exact = false) {
    if (this.#original) return this.#original;
    const made = exact ? layer(this.width, this.height) : layer(this.ink.width, this.ink.height);
    const context = made.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, made.width, made.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.mask ? this.#white() : this.ink, 0, 0, made.width, made.height);
    return made.toDataURL("image/png").split(",")[1];
  }

  /** The ink in white. */
  #white() {
    const made = layer(this.ink.width, this.ink.height);
    const context = made.getContext("2d");
    context.drawImage(this.ink, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, made.width, made.height);
    return made;
  }

  /** Puts a picture in place of what was drawn; of a mask, what is bright becomes ink. */
  async load(base64, fit = "stretch") {
    const load = ++this.#loads;
    const image = await imageOf(base64);
    if (load !== this.#loads) return; // cleared, or another picture came
    this.remember();
    const context = this.#inkContext();
    context.clearRect(0, 0, this.ink.width, this.ink.height);
    drawFitted(context, image, fit);
    if (this.mask) {
      const pixels = context.getImageData(0, 0, this.ink.width, this.ink.height);
      for (let at = 0; at < pixels.data.length; at += 4) pixels.data[at + 3] = (pixels.data[at + 3] * pixels.data[at]) / 255;
      context.putImageData(pixels, 0, 0);
      context.globalCompositeOperation = "source-in";
      context.fillStyle = MASK;
      context.fillRect(0, 0, this.ink.width, this.ink.height);
      context.globalCompositeOperation = "source-over";
    }
    if (fit === "stretch") this.#original = base64;
    this.show();
  }

  /** What lies under a mask: a picture in base64, or null. `fit`: crop, pad or stretch, as the server fits it. */
  async lay(base64, fit = "crop") {
    const lay = ++this.#lays;
    const image = base64 ? await imageOf(Array.isArray(base64) ? base64[0] : base64).catch(() => null) : null;
    if (lay !== this.#lays) return; // another picture came
    this.#under = image && { image, fit };
    this.show();
  }

  clear() {
    this.#loads++;
    if (this.isBlank) return;
    this.remember();
    this.#inkContext().clearRect(0, 0, this.ink.width, this.ink.height);
    this.changed("cleared");
  }

  /** Whether color is drawn with, not white alone. */
  set colored(value) {
    this.color.parentElement.hidden = !value;
    this.paper.hidden = value || this.mask;
    if (value) this.node.classList.remove("light");
    else this.color.value = "#ffffff";
  }

  #tools(label) {
    const button = (text, name, act, extra = {}) =>
      h("button", { type: "button", className: "tool", "aria-label": name, title: name, onclick: act, ...extra }, text);
    this.pen = button("Pen", "Pen (P)", () => this.take(false), { "aria-pressed": "true" });
    this.eraser = button("Eraser", "Eraser (E)", () => this.take(true), { "aria-pressed": "false" });
    this.breadth = h("input", { type: "range", min: 1, max: 24, step: 0.5, value: this.mask ? 16 : 2, "aria-label": "Line width" });
    this.color = h("input", { type: "color", value: "#ffffff", "aria-label": "Ink" });
    this.paper = button("Light", "Light paper", () => this.#turnPaper(), { "aria-pressed": "false", hidden: this.mask });
    return h("div", { className: "tools", role: "group", "aria-label": `Tools: ${label}` },
      h("span", { className: "joined" }, this.pen, this.eraser),
      h("span", { className: "breadth" }, this.breadth),
      h("label", { className: "ink", hidden: true }, "Ink", this.color),
      button("Undo", "Undo (Ctrl+Z)", () => this.undo()),
      button("Redo", "Redo (Ctrl+Y)", () => this.redo()),
      button("Clear", "Clear all", () => this.clear()), this.paper);
  }

  take(erasing) {
    this.erasing = erasing;
    this.pen.setAttribute("aria-pressed", String(!erasing));
    this.eraser.setAttribute("aria-pressed", String(erasing));
  }

  #turnPaper() {
    const light = this.node.classList.toggle("light");
    this.paper.setAttribute("aria-pressed", String(light));
  }

  #inkContext() {
    return this.ink.getContext("2d", { willReadFrequently: true });
  }

  remember() {
    this.#original = null;
    this.#past.push(this.#inkContext().getImageData(0, 0, this.ink.width, this.ink.height));
    if (this.#past.length * this.ink.width * this.ink.height * 4 > UNDO) this.#past.shift();
    this.#future = [];
  }

  undo() {
    this.#swap(this.#past, this.#future, "taken back");
  }

  redo() {
    this.#swap(this.#future, this.#past, "done again");
  }

  #swap(from, to, said) {
    const state = from.pop();
    if (!state) return announce("nothing left");
    this.#original = null;
    to.push(this.#inkContext().getImageData(0, 0, this.ink.width, this.ink.height));
    this.#inkContext().putImageData(state, 0, 0);
    this.changed(said);
  }

  changed(said) {
    this.show();
    if (said) announce(said);
    this.onchange();
  }

  line(from, to) {
    const context = this.#inkContext();
    context.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
    context.strokeStyle = this.mask ? MASK : this.color.value;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = Number(this.breadth.value) * this.scale;
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  show() {
    const { context, canvas } = this;
    context.globalAlpha = 1;
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (this.#under) drawFitted(context, this.#under.image, this.#under.fit);
    context.globalAlpha = this.mask ? 0.7 : 1;
    context.drawImage(this.ink, 0, 0);
    context.globalAlpha = 1;
    this.keys.show(context);
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.ink.width,
      y: ((event.clientY - box.top) / box.height) * this.ink.height,
    };
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.#stroke) return;
      this.#pointer = event.pointerId;
      canvas.setPointerCapture(event.pointerId);
      this.keys.cursor = null;
      this.remember();
      this.#stroke = this.#at(event);
      this.line(this.#stroke, this.#stroke);
      this.show();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.#stroke || event.pointerId !== this.#pointer) return;
      for (const one of event.getCoalescedEvents?.() ?? [event]) {
        const next = this.#at(one);
        this.line(this.#stroke, next);
        this.#stroke = next;
      }
      this.show();
    });
    const end = (event) => {
      if (!this.#stroke || event.pointerId !== this.#pointer) return;
      this.keys.point = this.#stroke;
      this.#stroke = null;
      this.changed();
    };
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(name, end);
  }
}
