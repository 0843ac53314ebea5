// Drawing with the keyboard: a cursor, a pen that is put down and lifted, and straight lines.

import { announce } from "./dom.js";

export const KEYS_HELP =
  "Draw with a pointer. With the keyboard: arrow keys move the cursor, with Shift far; Space puts the pen down and " +
  "lifts it; Enter draws a straight line from the last point; E and P choose eraser and pen; square brackets change " +
  "the width; Control+Z takes back.";
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STEPS = 64; // of the cursor along the shorter side
const FAR = 8;

export class SketchKeys {
  cursor = null; // where the keyboard draws, in pixels of the ink, and whether the pen is down
  point = null; // where the last line ended

  constructor(sketch) {
    this.sketch = sketch;
    sketch.canvas.addEventListener("keydown", (event) => this.#key(event));
    sketch.canvas.addEventListener("blur", () => this.#leave());
  }

  /** Draws the cursor over what is shown. */
  show(context) {
    if (!this.cursor) return;
    const { x, y } = this.cursor;
    const arm = this.sketch.ink.width / 40;
    for (const [color, breadth] of [["#000", 6], ["#fb8b3c", 3]]) {
      context.strokeStyle = color;
      context.lineWidth = breadth;
      context.beginPath();
      context.moveTo(x - arm, y);
      context.lineTo(x + arm, y);
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
      context.stroke();
    }
  }

  #leave() {
    const drawn = this.cursor?.down;
    this.cursor = null;
    if (drawn) this.sketch.changed();
    else this.sketch.show();
  }

  #key(event) {
    const act = this.#action(event);
    if (!act) return;
    event.preventDefault();
    const { width, height } = this.sketch.ink;
    this.cursor ??= { x: width / 2, y: height / 2, down: false };
    act();
    this.sketch.show();
  }

  #action({ key, ctrlKey, metaKey, shiftKey }) {
    const letter = key.toLowerCase();
    if (ctrlKey || metaKey) {
      if (letter === "y" || (letter === "z" && shiftKey)) return () => this.sketch.redo();
      return letter === "z" ? () => this.sketch.undo() : null;
    }
    if (key in MOVES) return () => this.#move(...MOVES[key], shiftKey ? FAR : 1);
    const acts = {
      " ": () => this.#pen(), enter: () => this.#lineHere(), e: () => this.#tool(true), p: () => this.#tool(false),
      "[": () => this.#widen(-1), "]": () => this.#widen(1),
    };
    return acts[letter] ?? null;
  }

  #tool(erasing) {
    this.sketch.take(erasing);
    announce(erasing ? "eraser" : "pen");
  }

  #widen(by) {
    const { breadth } = this.sketch;
    breadth.value = Number(breadth.value) + by;
    announce(`width ${breadth.value}`);
  }

  #move(right, down, far) {
    const { width, height } = this.sketch.ink;
    const before = { ...this.cursor };
    const step = (Math.min(width, height) / STEPS) * far;
    this.cursor.x = Math.min(width, Math.max(0, before.x + right * step));
    this.cursor.y = Math.min(height, Math.max(0, before.y + down * step));
    if (before.down) this.sketch.line(before, this.cursor);
    announce(this.#place());
  }

  #place() {
    const { width, height } = this.sketch.ink;
    return `${Math.round((100 * this.cursor.x) / width)}, ${Math.round((100 * this.cursor.y) / height)} percent`;
  }

  #pen() {
    this.cursor.down = !this.cursor.down;
    if (this.cursor.down) {
      this.sketch.remember();
      this.sketch.line(this.cursor, this.cursor);
    } else this.sketch.changed();
    this.point = { ...this.cursor };
    announce(this.cursor.down ? `pen down at ${this.#place()}` : "pen lifted");
  }

  #lineHere() {
    this.sketch.remember();
    this.sketch.line(this.point ?? this.cursor, this.cursor);
    this.point = { ...this.cursor };
    this.sketch.changed(`line to ${this.#place()}`);
  }
}
