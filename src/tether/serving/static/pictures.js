// Pictures that people give: chosen, dropped or pasted. They are kept as base64 of the very bytes of the file.

import { announce, h, newId } from "./dom.js";

const CHUNK = 0x8000;

export async function toBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += CHUNK) text += String.fromCharCode(...bytes.subarray(at, at + CHUNK));
  return btoa(text);
}

/** An object URL of a picture in base64, with or without "data:...;base64," before it. */
export function urlOf(base64) {
  const bytes = Uint8Array.from(atob(base64.slice(base64.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes]));
}

/** A decoded picture. */
export async function imageOf(base64) {
  const image = new Image();
  image.src = urlOf(base64);
  try {
    await image.decode();
  } finally {
    URL.revokeObjectURL(image.src);
  }
  return image;
}

/** The first file that is a picture, of a drop or a paste. */
export function fileOf(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;
}

/** A field for one picture; `value` is its base64, a list of them, or null. Fires `change`. */
export class PictureField {
  #value = null;

  constructor(names, label, onchange) {
    this.onchange = onchange;
    this.label = label;
    this.input = h("input", { type: "file", accept: "image/*", id: newId("file"), onchange: () => this.#chosen() });
    this.image = h("img", { alt: "", hidden: true });
    this.note = h("span", { className: "hint" }, "or drop it here");
    this.remove = h("button", {
      type: "button", className: "quiet", hidden: true, "aria-label": `Remove: ${label}`, onclick: () => this.clear(),
    }, "Remove");
    this.node = h("div", { className: "field picture", "data-field": names },
      h("label", { htmlFor: this.input.id }, label), this.image, h("div", { className: "row" }, this.input, this.remove),
      this.note);
    this.node.addEventListener("dragover", (event) => this.#over(event));
    this.node.addEventListener("dragleave", () => this.node.classList.remove("over"));
    this.node.addEventListener("drop", (event) => this.#dropped(event));
  }

  get value() {
    return this.#value;
  }

  /** Sets the picture without firing `change`. */
  set(value) {
    this.#value = value;
    if (this.image.src) URL.revokeObjectURL(this.image.src);
    const first = Array.isArray(value) ? value[0] : value;
    this.image.hidden = this.remove.hidden = !first;
    if (first) this.image.src = urlOf(first);
    else this.image.removeAttribute("src");
    this.image.alt = first ? `${this.label}, as chosen` : "";
    this.note.textContent = Array.isArray(value) ? `${value.length} pictures, one for each image` : first ? "" : "or drop it here";
    this.input.value = ""; // the same file can be chosen again
  }

  clear() {
    this.set(null);
    this.onchange();
    this.input.focus();
  }

  async take(file) {
    this.set(await toBase64(file));
    this.note.textContent = file.name;
    announce(`${this.label}: ${file.name}`);
    this.onchange();
  }

  #chosen() {
    if (this.input.files.length) this.take(this.input.files[0]);
  }

  #over(event) {
    event.preventDefault();
    event.stopPropagation();
    this.node.classList.add("over");
  }

  #dropped(event) {
    this.node.classList.remove("over");
    const file = fileOf(event.dataTransfer);
    if (!file) return;
    event.preventDefault();
    event.stopPropagation();
    document.body.classList.remove("dropping");
    this.take(file);
  }
}
