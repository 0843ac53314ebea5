// Elements, fields with their errors, and what screen readers are told. Text is only ever set as text.

let made = 0;

export const $ = (selector, root = document) => root.querySelector(selector);

/** An id that no other element has. */
export const newId = (name) => `${name}-${++made}`;

/** An element: properties and attributes by name, listeners as onNAME, then its children. */
export function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.includes("-") || !(name in node) || name === "list") node.setAttribute(name, value === true ? "" : value);
    else node[name] = value;
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A labelled control; `names` are the places in a request whose errors belong here. */
export function field(names, label, control, hint = "") {
  control.id ||= newId("field");
  const node = h("div", { className: "field", "data-field": names }, h("label", { htmlFor: control.id }, label), control);
  if (hint) {
    const text = h("p", { className: "hint", id: newId("hint") }, hint);
    control.setAttribute("aria-describedby", text.id);
    node.append(text);
  }
  return node;
}

/** A slider with a box beside it for the exact value, or for a text that is more than a number. */
export class Slider {
  constructor(names, label, { value, min, max, step = "any", hint = "", texts = false }) {
    this.texts = texts;
    this.initial = value;
    this.range = h("input", { type: "range", min, max, step, value, oninput: () => (this.box.value = this.range.value) });
    this.box = h("input", {
      type: texts ? "text" : "number", className: "exact", value, step, min: texts ? null : min, max: texts ? null : max,
      "aria-label": `${label}, exact value`, oninput: () => this.#follow(), autocomplete: "off",
    });
    this.node = field(names, label, this.range, hint);
    this.node.classList.add("slider");
    this.range.after(this.box);
    this.value = value;
  }

  get value() {
    const text = this.box.value.trim();
    return text === "" ? this.initial : text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  }

  set value(value) {
    this.box.value = String(value);
    this.#follow();
  }

  #follow() {
    const number = Number(this.box.value);
    if (this.box.value.trim() !== "" && Number.isFinite(number)) this.range.value = number;
  }
}

/** Options of a select: [value, text] pairs. */
export function choose(select, pairs, value) {
  select.replaceChildren(...pairs.map(([name, text]) => h("option", { value: name }, text)));
  if (value !== undefined) select.value = value;
  return select;
}

/** Tells screen readers something that others see. */
export function announce(text) {
  const region = $("#announcer");
  region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text));
}

export function clearErrors(root = document) {
  for (const node of root.querySelectorAll(".error")) node.remove();
  for (const input of root.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-errormessage");
  }
}

/** Shows an error at a field, and goes there. */
export function showError(node, message) {
  const text = h("p", { className: "error", id: newId("error"), role: "alert" }, message);
  node.append(text);
  for (let up = node.closest("details"); up; up = up.parentElement.closest("details")) up.open = true;
  const input = node.matches("[data-field]") ? $(".exact", node) ?? $("input, select, textarea, canvas, button", node) : null;
  input?.setAttribute("aria-invalid", "true");
  input?.setAttribute("aria-errormessage", text.id);
  input?.focus({ preventScroll: true });
  node.scrollIntoView({ block: "center" });
}
