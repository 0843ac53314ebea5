// The form <-> a request of the API. What a loaded request has that the form does not show is kept, and said.

import { ControlCard } from "./control.js";
import { $, announce, choose, clearErrors, showError, Slider } from "./dom.js";
import { PictureField } from "./pictures.js";
import { Sketch } from "./sketch.js";

const SHOWN = [
  "prompt", "negative_prompt", "controls", "seed", "count", "steps", "guidance_scale", "scheduler", "sigmas", "size",
  "fit", "base", "init", "mask", "denoising_strength", "strength",
];
const DRAWN = ["device", "engine", "index", "versions", "fingerprints"]; // of how an image was drawn: decided anew

export class Form {
  constructor(catalog) {
    this.catalog = catalog;
    this.cards = [];
    this.rest = {};
    this.#build();
    this.fill({ prompt: "" });
  }

  #build() {
    const { defaults, limits } = this.catalog;
    const most = (least, value) => Math.max(least, value);
    this.count = new Slider("count", "Images", { value: defaults.count, min: 1, max: most(2, limits.count), step: 1 });
    this.steps = new Slider("steps", "Steps", { value: defaults.steps, min: 1, max: most(2, limits.steps), step: 1 });
    this.guidance = new Slider("guidance_scale", "Guidance", { value: defaults.guidance_scale, min: 1, max: 15, step: 0.5 });
    this.denoising = new Slider("denoising_strength", "How much is drawn anew", {
      value: defaults.denoising_strength, min: 0.05, max: 1, step: 0.05,
    });
    $(".settings").prepend(this.count.node, this.steps.node, this.guidance.node);
    this.init = new PictureField("init", "Picture", () => this.#initChosen());
    $("#init").append(this.init.node, this.denoising.node);
    this.mask = new Sketch({ label: "Mask of what is drawn anew", mask: true });
    $("#inpaint").append(this.mask.node);
    choose($("#scheduler"), this.catalog.samplers.map((one) => [one.name, one.name]));
    choose($("#base"), this.catalog.bases.map((one) => [one.name, one.name]));
    $('[data-field="base"]').hidden = this.catalog.bases.length < 2;
    $("#add").hidden = limits.controls === 0 || this.catalog.controls.length === 0;
    $("#scheduler").addEventListener("change", () => this.#sigmas());
    $("#fit").addEventListener("change", () => this.#resized());
    for (const id of ["#width", "#height"]) $(id).addEventListener("change", () => this.#resized());
    $("#request").addEventListener("input", (event) => clearErrors(event.target.closest("[data-field]") ?? event.target));
    $("#add").addEventListener("click", () => this.add().sketch.canvas.focus());
  }

  /** Width and height that are drawn. */
  get size() {
    const own = this.catalog.defaults.size ?? [512, 512];
    const side = (id, other) => Math.min(4096, Math.max(8, Number($(id).value) || other));
    return [side("#width", own[0]), side("#height", own[1])];
  }

  #sigmas(value = null) {
    const sampler = this.catalog.samplers.find((one) => one.name === $("#scheduler").value);
    const names = sampler?.sigmas ?? [];
    choose($("#sigmas"), [["", "as the sampler has them"], ...names.map((name) => [name, name])], value ?? "");
    $('[data-field="sigmas"]').hidden = names.length === 0;
  }

  #resized() {
    for (const card of this.cards) card.resize(...this.size);
    this.mask.resize(...this.size);
    this.#initChosen();
  }

  #initChosen() {
    $("#inpaint").hidden = !this.init.value;
    this.mask.lay(this.init.value, $("#fit").value);
  }

  add() {
    const card = new ControlCard(this.catalog, () => this.size, () => $("#fit").value, (one) => this.remove(one));
    card.resize(...this.size);
    this.cards.push(card);
    $("#controls").append(card.node);
    this.#numbered();
    return card;
  }

  remove(card) {
    this.cards = this.cards.filter((one) => one !== card);
    card.node.remove();
    this.#numbered();
    $("#add").focus();
    announce("control removed");
  }

  #numbered() {
    this.cards.forEach((card, index) => (card.number = index + 1));
    $("#add").disabled = this.cards.length >= this.catalog.limits.controls;
  }

  /** The request; which cards its controls are of is kept for errors. */
  read() {
    const read = this.cards.map((card) => [card, card.read()]).filter(([, control]) => control !== null);
    this.sent = read.map(([card]) => card);
    const request = {
      ...this.rest,
      prompt: $("#prompt").value.trim(),
      negative_prompt: $("#negative").value.trim(),
      controls: read.map(([, control]) => control),
      count: this.count.value, steps: this.steps.value, guidance_scale: this.guidance.value,
      scheduler: $("#scheduler").value, fit: $("#fit").value, base: $("#base").value,
    };
    const seed = $("#seed").value.replace(/\s/g, "").replace(/\b0+(?=\d)/g, ""); // JSON has no 007
    if (seed) request.seed = seed;
    if ($("#sigmas").value) request.sigmas = $("#sigmas").value;
    if ($("#width").value || $("#height").value) request.size = this.#asked();
    if (this.init.value) Object.assign(request, this.#start());
    if (request.mask) request.size ??= this.size; // of the mask: another base may have another size of its own
    return request;
  }

  /** The request with all cards, for `fill`; `whole`: also with their pictures that would not be sent now. */
  draft(whole) {
    const controls = this.cards.map((card) => card.draft(whole));
    return { denoising_strength: this.denoising.value, ...this.read(), controls };
  }

  #asked() {
    const own = this.catalog.defaults.size ?? [512, 512];
    return ["#width", "#height"].map((id, k) => ($(id).value ? Number($(id).value) : own[k]));
  }

  #start() {
    const values = { init: this.init.value, denoising_strength: this.denoising.value };
    if (!this.mask.isBlank) values.mask = this.mask.export(true);
    return values;
  }

  /** Shows a request: all of it. */
  fill(request) {
    clearErrors();
    $("#problem").textContent = "";
    const { defaults } = this.catalog;
    $("#prompt").value = request.prompt ?? "";
    $("#negative").value = request.negative_prompt ?? "";
    $("#seed").value = (request.seed ?? "").toString().replaceAll(",", ", ");
    this.count.value = request.count ?? defaults.count;
    this.steps.value = request.steps ?? defaults.steps;
    this.guidance.value = request.guidance_scale ?? defaults.guidance_scale;
    this.denoising.value = request.denoising_strength ?? request.strength ?? defaults.denoising_strength;
    this.#select("#scheduler", request.scheduler ?? defaults.scheduler);
    this.#sigmas(request.sigmas);
    $("#fit").value = request.fit ?? defaults.fit;
    this.#select("#base", request.base ?? defaults.base);
    this.#fillSize(request.size ?? null);
    this.#fillStart(request);
    this.cards = [];
    $("#controls").replaceChildren();
    const controls = request.controls ?? [];
    for (const control of controls) this.add().fill(control);
    if (!controls.length && !$("#add").hidden) this.add();
    this.#numbered();
    this.#keep(request);
  }

  #select(id, value) {
    const select = $(id);
    if (![...select.options].some((one) => one.value === value)) select.append(new Option(`${value} (not here)`, value));
    select.value = value;
  }

  #fillSize(size) {
    ["#width", "#height"].forEach((id, k) => ($(id).value = size ? size[k] : ""));
    this.#placeSize();
  }

  #placeSize() {
    const own = this.catalog.defaults.size;
    ["#width", "#height"].forEach((id, k) => ($(id).placeholder = own ? own[k] : "own"));
  }

  /** The base is open: its own size is known. */
  opened(defaults) {
    this.catalog.defaults = defaults;
    this.#placeSize();
    this.#resized();
  }

  #fillStart({ init, mask }) {
    this.mask.resize(...this.size);
    this.mask.clear();
    this.init.set(init ?? null);
    if (mask) this.mask.load(mask).catch(() => showError($("#inpaint"), "the mask cannot be shown"));
    $("#start").open = Boolean(init);
    this.#initChosen();
  }

  /** Starts from a picture. */
  startFrom(base64) {
    this.init.set(base64);
    this.mask.clear();
    $("#start").open = true;
    this.#initChosen();
    this.init.input.focus();
    announce("the picture is what is started from");
  }

  #keep(request) {
    const kept = Object.entries(request).filter(
      ([name, value]) => ![...SHOWN, ...DRAWN].includes(name) && value !== null && !(Array.isArray(value) && !value.length));
    this.rest = Object.fromEntries(kept);
    if (request.versions && Object.keys(request.versions).length) this.rest.rules ??= 1; // as the server reads it
    const { defaults } = this.catalog;
    const telling = Object.entries(this.rest).filter(([name, value]) => value && value !== defaults[name]);
    const said = telling.map(([name, value]) => `${name} ${JSON.stringify(value)}`);
    $("#kept").hidden = said.length === 0;
    $("#kept").textContent = `Also kept from the request: ${said.join(", ")}`.slice(0, 400);
  }

  /** Shows a refusal at the field that it names, or below the form. */
  refuse(field, message) {
    const [first, index, name] = (field ?? "").split(".");
    const card = first === "controls" ? this.sent?.[Number(index)]?.node : null;
    const root = card ?? $("#request");
    const places = [...root.querySelectorAll(`[data-field~="${CSS.escape((card ? name : first) || "none")}"]`)];
    const found = places.find((one) => !one.hidden) ?? card;
    if (found) showError(found, message);
    else $("#problem").textContent = field ? `${field}: ${message}` : message;
  }
}
