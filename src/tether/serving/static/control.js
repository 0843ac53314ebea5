// The card of one control: where its map comes from, how the map is made, and how it acts.

import { annotate } from "./api.js";
import { announce, choose, clearErrors, field, h, newId, showError, Slider } from "./dom.js";
import { PictureField, toBase64 } from "./pictures.js";
import { Sketch } from "./sketch.js";

const WAIT = 250; // milliseconds of silence before a map is made
const SOURCES = [["sketch", "Draw"], ["photo", "Photo"], ["map", "Ready map"]];
const KNOWN = ["ref", "condition", "photo", "kind", "annotator", "options", "source", "strength", "weighting", "window", "mask", "invert", "draft"];
const SIDES = [["", "as the control recommends"], ["both", "both branches"], ["conditional", "the prompt's branch alone"]];

export class ControlCard {
  /** `catalog`: the lists of the API; `size()`: of the image; `onremove(card)`. */
  constructor(catalog, size, fit, onremove) {
    this.catalog = catalog;
    this.size = size;
    this.fit = fit;
    this.rest = {};
    this.#build(onremove);
    this.fill({ ref: this.#firstControl() });
  }

  #firstControl() {
    const names = this.catalog.controls.map((one) => one.name);
    return names.includes("canny") ? "canny" : names[0];
  }

  #build(onremove) {
    this.sketch = new Sketch({ label: "Canvas", onchange: () => this.#sketched() });
    this.photo = new PictureField("photo", "Photo", () => this.#changed());
    this.map = new PictureField("condition", "Map", () => {
      this.invert = null; // the server looks whether it is black on white
      this.#changed();
    });
    this.mask = new Sketch({ label: "Mask of the control", mask: true, onchange: () => this.#note() });
    this.ref = h("select", { onchange: () => this.#controlChosen() });
    choose(this.ref, this.catalog.controls.map((one) => [one.name, one.name]));
    this.kind = h("select", { onchange: () => this.#kindChosen() });
    choose(this.kind, [["", "the control's own"], ...this.catalog.kinds.filter((one) => one.annotators.length || one.is_image).map((one) => [one.name, one.name])]);
    this.annotator = h("select", { onchange: () => this.#annotatorChosen() });
    this.strength = new Slider("strength", "Strength", { value: 1, min: 0, max: 2, step: 0.05, texts: true });
    this.start = new Slider("window", "Acts from", { value: 0, min: 0, max: 1, step: 0.05 });
    this.end = new Slider("window", "Acts until", { value: 1, min: 0, max: 1, step: 0.05 });
    this.weighting = h("select");
    this.sides = h("select");
    this.options = h("div", { className: "sliders" });
    this.preview = h("img", { alt: "Condition map", hidden: true });
    this.state = h("p", { className: "hint", role: "status" });
    this.kept = h("p", { className: "hint kept", hidden: true });
    this.legend = h("legend");
    this.remove = h("button", { type: "button", className: "quiet remove", onclick: () => onremove(this) }, "Remove");
    this.node = h("fieldset", { className: "card control", "data-field": "ref" }, this.legend,
      this.remove, h("div", { className: "split" }, this.#pictures(), this.#how()));
    this.node.addEventListener("input", (event) => this.options.contains(event.target) && this.#changed());
  }

  #pictures() {
    const name = newId("source");
    this.sources = SOURCES.map(([value, text]) =>
      h("label", {}, h("input", { type: "radio", name, value, onchange: () => this.#sourceChosen(value) }), text));
    this.edit = h("button", { type: "button", className: "quiet", hidden: true, onclick: () => this.#drawOnMap() }, "Draw on this map");
    this.made = h("div", { className: "made" }, h("p", { className: "label" }, "Map"), this.preview);
    this.drawn = h("div", { "data-field": "condition" }, this.sketch.node);
    this.pair = h("div", { className: "pair" }, this.photo.node, this.map.node, this.made);
    return h("div", { className: "pictures" },
      h("div", { className: "tabs", role: "radiogroup", "aria-label": "Where the map comes from" }, this.sources),
      this.drawn, this.pair, this.edit, this.state);
  }

  #how() {
    const kindOf = field("ref", "Control", this.ref);
    this.summary = h("p", { className: "hint" });
    this.kindField = field("kind", "Kind", this.kind);
    this.annotatorField = field("annotator", "Made by", this.annotator);
    kindOf.append(this.summary);
    const masked = h("details", { className: "inner", "data-field": "mask" },
      h("summary", {}, "Only in a part of the picture"),
      h("p", { className: "hint" }, "Paint where the control acts. Nothing painted: everywhere."), this.mask.node);
    masked.addEventListener("toggle", () => masked.open && this.#layUnder());
    return h("div", { className: "how" }, kindOf, this.kindField, this.annotatorField,
      h("div", { "data-field": "options" }, this.options), this.strength.node,
      h("div", { className: "row window", role: "group", "aria-label": "Window: share of the steps" }, this.start.node, this.end.node),
      field("weighting", "Weighting", this.weighting),
      field("sides", "Acts on", this.sides), masked, this.kept);
  }

  set number(number) {
    this.legend.textContent = `Control ${number}`;
    this.remove.setAttribute("aria-label", `Remove control ${number}`);
    this.sketch.canvas.setAttribute("aria-label", `Canvas of control ${number}`);
  }

  get source() {
    return this.sources.map((label) => label.firstChild).find((input) => input.checked).value;
  }

  #ownKind() {
    return this.catalog.controls.find((one) => one.name === this.ref.value)?.kind ?? null;
  }

  #kindOf() {
    const name = (this.source === "photo" && this.kind.value) || this.#ownKind();
    return this.catalog.kinds.find((one) => one.name === name) ?? null;
  }

  #controlChosen() {
    this.kind.value = "";
    this.#kindChosen();
  }

  #kindChosen(annotator = null, options = {}) {
    const kind = this.#kindOf();
    const annotators = kind?.annotators ?? [];
    this.summary.textContent = kind?.summary ?? "Its files do not say which kind of map it takes.";
    choose(this.annotator, annotators.map((one) => [one.name, one.ready ? one.name : `${one.name} (not installed)`]));
    this.annotator.value = annotator ?? annotators.find((one) => one.ready)?.name ?? annotators[0]?.name ?? "";
    this.sketch.colored = kind !== null && !kind.white_lines;
    this.#annotatorChosen(options);
    this.#showSource();
  }

  #annotatorChosen(options = {}) {
    const found = this.#kindOf()?.annotators.find((one) => one.name === this.annotator.value);
    this.sliders = (found?.options ?? []).map((one) => {
      const whole = [one.default, one.least, one.most].every(Number.isInteger) && one.most - one.least > 1;
      const reach = Math.min(one.most, Math.max(1000, 4 * one.default));
      const slider = new Slider("option", one.name, {
        value: options[one.name] ?? one.default, min: one.least, max: reach, step: whole ? 1 : "any", hint: one.help,
      });
      return Object.assign(slider, { name: one.name });
    });
    this.options.replaceChildren(...this.sliders.map((one) => one.node));
    this.#changed();
  }

  #sourceChosen(value) {
    for (const label of this.sources) label.firstChild.checked = label.firstChild.value === value;
    this.#kindChosen();
  }

  #showSource() {
    const source = this.source;
    this.drawn.hidden = source !== "sketch";
    this.pair.hidden = source === "sketch";
    this.photo.node.hidden = source !== "photo";
    this.map.node.hidden = source !== "map";
    this.made.hidden = source !== "photo";
    this.annotatorField.hidden = source !== "photo" || this.annotator.options.length < 2;
    this.options.hidden = source !== "photo";
    this.kindField.hidden = source !== "photo" || this.#ownKind() !== null;
    this.#note();
  }

  /** Says what of this card counts. */
  #note() {
    const lacking = { sketch: this.sketch.isBlank, photo: !this.photo.value, map: !this.map.value }[this.source];
    const texts = { sketch: "Blank so far: it does not count.", photo: "No photo so far: it does not count.", map: "No map so far: it does not count." };
    this.state.textContent = lacking ? texts[this.source] : "";
    this.state.hidden = !lacking;
    this.edit.hidden = !this.#editable();
    this.node.classList.toggle("empty", lacking);
  }

  /** The map that can be drawn on, in base64 or as a blob: what was made of the photo, or a map that is as it counts. */
  #editable() {
    const map = Array.isArray(this.map.value) ? null : this.map.value;
    return { sketch: null, photo: this.mapBlob, map: this.invert === false ? map : null }[this.source];
  }

  #sketched() {
    clearErrors(this.drawn);
    this.#note();
  }

  #changed() {
    this.#note();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#annotate(), WAIT);
  }

  /** The live preview: the map that the server makes of the photo. */
  async #annotate() {
    this.running?.abort();
    this.running = new AbortController();
    const kind = this.#kindOf();
    const photo = Array.isArray(this.photo.value) ? this.photo.value[0] : this.photo.value;
    if (this.source !== "photo" || !photo || !kind) return this.#showMap(null);
    const values = { image: photo, kind: kind.name, size: this.size(), fit: this.fit(), ...this.#making() };
    const { signal } = this.running;
    try {
      const map = await annotate(values, signal);
      this.#showMap(map);
      announce("map made");
    } catch (error) {
      if (signal.aborted) return;
      this.#showMap(null);
      this.state.textContent = error.message;
      this.state.hidden = false;
    }
  }

  #showMap(blob) {
    if (this.preview.src) URL.revokeObjectURL(this.preview.src);
    this.mapBlob = blob;
    this.preview.hidden = !blob;
    if (blob) this.preview.src = URL.createObjectURL(blob);
    else this.preview.removeAttribute("src");
    this.#note();
  }

  async #drawOnMap() {
    const map = this.#editable();
    await this.sketch.load(map instanceof Blob ? await toBase64(map) : map, this.fit());
    this.#sourceChosen("sketch");
    this.sketch.canvas.focus();
    announce("the map is on the canvas");
  }

  #layUnder() {
    const given = { sketch: this.sketch.export(), photo: this.photo.value, map: this.map.value }[this.source];
    this.mask.lay(given, this.source === "sketch" ? "stretch" : this.fit());
  }

  #making() {
    const values = {};
    if (this.annotator.value) values.annotator = this.annotator.value;
    const changed = this.sliders.map((one) => [one.name, one.value]);
    if (changed.length) values.options = Object.fromEntries(changed);
    return values;
  }

  resize(width, height) {
    this.sketch.resize(width, height);
    this.mask.resize(width, height);
    this.#changed();
  }

  #settings() {
    const made = { ref: this.ref.value, ...this.rest, strength: this.strength.value, weighting: this.#weighting() };
    made.window = [this.start.value, this.end.value];
    if (this.sides.value !== "") made.sides = this.sides.value === "other" ? this.otherSides : this.sides.value;
    if (!this.mask.isBlank) made.mask = this.mask.export();
    return made;
  }

  /** The control of a request, or null when the card has no picture. */
  read() {
    const made = this.#settings();
    if (this.source === "photo") {
      if (!this.photo.value) return null;
      return { ...made, photo: this.photo.value, ...(this.kind.value ? { kind: this.kind.value } : {}), ...this.#making() };
    }
    if (this.source === "map") return this.map.value ? { ...made, condition: this.map.value, invert: this.invert } : null;
    return this.sketch.isBlank ? null : { ...made, condition: this.sketch.export() };
  }

  /** The card as it is, for `fill`: with `draft`, what a request does not say. `whole`: all its pictures. */
  draft(whole) {
    const has = (source) => whole || this.source === source;
    const made = { ...this.#settings(), ...this.#making(), kind: this.kind.value, draft: { source: this.source } };
    if (has("photo") && this.photo.value) made.photo = this.photo.value;
    if (has("map") && this.map.value) Object.assign(made, { condition: this.map.value, invert: this.invert });
    if (has("sketch") && !this.sketch.isBlank) made.draft.sketch = this.sketch.export();
    return made;
  }

  #weighting() {
    return this.weighting.value === "other" ? this.otherWeighting : this.weighting.value;
  }

  /** Shows a control of a request. */
  fill(control) {
    const rest = Object.entries(control).filter(([name, value]) => ![...KNOWN, "sides"].includes(name) && value !== null);
    this.rest = Object.fromEntries(rest);
    this.kept.hidden = rest.length === 0;
    this.kept.textContent = `Also kept: ${rest.map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(", ")}`.slice(0, 300);
    if (!this.catalog.controls.some((one) => one.name === control.ref)) this.ref.append(h("option", { value: control.ref }, `${control.ref} (not here)`));
    this.ref.value = control.ref;
    this.strength.value = control.strength ?? 1;
    [this.start.value, this.end.value] = control.window ?? [0, 1];
    this.#fillChoices(control);
    const { source: chosen, sketch } = control.draft ?? {};
    const given = control.photo ? "photo" : control.condition ? "map" : "sketch";
    const source = SOURCES.some(([name]) => name === chosen) ? chosen : given;
    for (const label of this.sources) label.firstChild.checked = label.firstChild.value === source;
    this.photo.set(control.photo ?? null);
    this.map.set(control.condition ?? null);
    this.invert = control.invert === undefined ? false : control.invert;
    if (sketch) this.sketch.load(sketch).then(() => this.#note(), () => showError(this.node, "the drawing cannot be shown"));
    this.kind.value = control.kind ?? "";
    this.#kindChosen(control.annotator, control.options);
    const first = Array.isArray(control.mask) ? control.mask[0] : control.mask;
    this.mask.clear();
    if (first) this.mask.load(first).catch(() => showError(this.node, "the mask cannot be shown"));
  }

  #fillChoices({ weighting = "balanced", sides = null }) {
    const names = this.catalog.weightings.map((one) => [one.name, `${one.name}: ${one.summary}`]);
    this.otherWeighting = Array.isArray(weighting) ? weighting : null;
    if (this.otherWeighting) names.push(["other", `own: ${weighting.join(", ")}`.slice(0, 60)]);
    choose(this.weighting, names, this.otherWeighting ? "other" : weighting);
    this.otherSides = typeof sides === "number" ? sides : null;
    const pairs = this.otherSides === null ? SIDES : [...SIDES, ["other", `a share of ${sides} on the other branch`]];
    choose(this.sides, pairs, this.otherSides === null ? (sides ?? "") : "other");
  }
}
