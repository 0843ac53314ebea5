// The job that is shown: its queue, its steps, its images.

import { call, cancel, follow, hasEnded, picture, requestOfJob } from "./api.js";
import { $, announce, h } from "./dom.js";
import { toBase64 } from "./pictures.js";

export class Result {
  /** `onChange()` is called when a job begins or ends, `onFill(request)` and `onStart(base64)` when people ask for it. */
  constructor({ onChange, onFill, onStart, onProblem }) {
    this.onChange = onChange;
    this.maps = []; // one, or one an image
    const onClick = (id, act) => $(id).addEventListener("click", () => act().catch(onProblem));
    this.urls = [];
    this.chosen = 0;
    onClick("#cancel", () => this.#cancel());
    onClick("#again", async () => onFill(await requestOfJob(this.job.id)));
    onClick("#last-seed", async () => ($("#seed").value = (await requestOfJob(this.job.id)).seed));
    onClick("#as-start", async () => onStart(await toBase64(await (await call("GET", this.job.images[this.chosen].url)).blob())));
    $("#show-lines").addEventListener("change", () => ($("#lines").hidden = !$("#show-lines").checked));
  }

  /** Shows a job, and follows it while it has not ended. */
  async show(job) {
    this.following?.abort();
    this.following = new AbortController();
    const { signal } = this.following;
    this.#clear();
    const update = async (next) => {
      try {
        await this.#update(next, signal);
      } catch (error) {
        if (!signal.aborted) $("#status").textContent = error.message;
      }
    };
    await update(job);
    const lost = () => ($("#status").textContent = "The connection is lost. Trying again: jobs are kept.");
    if (hasEnded(job)) return;
    await follow(job.id, update, lost, signal).catch((error) => ($("#status").textContent = error.message));
  }

  #clear() {
    for (const url of [...this.urls, ...this.maps]) URL.revokeObjectURL(url);
    this.urls = [];
    this.maps = [];
    this.chosen = 0;
    $("#gallery").replaceChildren();
    for (const id of ["#shown", "#lines", "#actions", "#over"]) $(id).hidden = true;
    $("#lines").removeAttribute("src");
    $("#placeholder").hidden = false;
    $("#status").classList.remove("bad");
  }

  async #update(job, signal) {
    const before = this.job?.id === job.id ? this.job.state : null;
    this.job = job;
    const running = !hasEnded(job);
    $("#cancel").hidden = !running;
    $("#progress").hidden = !running;
    $("#stage").classList.toggle("busy", running);
    const { step = 0, steps = 0 } = job.progress ?? {};
    $("#progress").value = steps ? step / steps : 0;
    $("#status").textContent = this.#said(job);
    $("#status").classList.toggle("bad", job.state === "failed");
    if (job.preview) this.#preview(job.preview);
    if (before !== job.state) {
      this.onChange(job);
      if (job.state !== "done") announce(this.#said(job)); // not each step
    }
    if (job.state === "done") await this.#done(job, signal);
    else if (!running) this.#endedWithout();
  }

  /** Failed or cancelled: its request can still be had. */
  #endedWithout() {
    $("#shown").hidden = true;
    $("#placeholder").hidden = false;
    $("#save").hidden = $("#as-start").hidden = true;
    $("#actions").hidden = false;
  }

  #said(job) {
    const { step = 0, steps = 0 } = job.progress ?? {};
    const seconds = job.ended && job.started ? ` in ${(job.ended - job.started).toFixed(1)} s` : "";
    return {
      queued: job.position ? `Waiting: ${job.position} before it` : "Waiting",
      running: step ? `Step ${step} of ${steps}` : "Beginning",
      done: `Done${seconds}`,
      failed: `Failed: ${job.error}`,
      cancelled: "Cancelled",
    }[job.state];
  }

  #preview(url) {
    $("#placeholder").hidden = true;
    const shown = $("#shown");
    shown.src = url;
    shown.alt = "Preview of the picture that is being drawn";
    shown.classList.add("preview");
    shown.hidden = false;
  }

  async #done(job, signal) {
    const urls = await Promise.all(job.images.map((one) => picture(one.url)));
    const maps = await Promise.all((await this.#mapsOf(job)).map(picture));
    if (signal.aborted) return [...urls, ...maps].forEach((url) => URL.revokeObjectURL(url));
    this.urls = urls;
    this.maps = maps;
    const buttons = urls.map((url, index) =>
      h("li", {}, h("button", { type: "button", onclick: () => this.#choose(index), "aria-label": `Image ${index + 1} of ${urls.length}` },
        h("img", { src: url, alt: "" }))));
    $("#gallery").replaceChildren(...(urls.length > 1 ? buttons : []));
    $("#over").hidden = !maps.length;
    $("#lines").hidden = !maps.length || !$("#show-lines").checked;
    $("#actions").hidden = $("#save").hidden = $("#as-start").hidden = $("#last-seed").hidden = false;
    this.#choose(0);
    announce(`${urls.length === 1 ? "the picture is" : `${urls.length} pictures are`} ready`);
  }

  /** The maps of the first control: one, or one an image, which only the request says where both may be. */
  async #mapsOf({ id, images, maps }) {
    if (images.length < 2 || maps.length < images.length) return maps.slice(0, 1);
    const { condition, photo } = (await requestOfJob(id)).controls[0];
    return maps.slice(0, [condition ?? photo].flat().length);
  }

  #choose(index) {
    this.chosen = index;
    $("#placeholder").hidden = true;
    const shown = $("#shown");
    shown.classList.remove("preview");
    shown.src = this.urls[index];
    if (this.maps.length) $("#lines").src = this.maps[index] ?? this.maps[0];
    shown.alt = this.job.prompt || "A picture without a prompt";
    shown.hidden = false;
    $("#save").href = this.urls[index];
    $("#save").download = `tether-${this.job.id.slice(0, 8)}-${index}.png`;
    [...$("#gallery").children].forEach((one, k) => one.firstChild.setAttribute("aria-current", String(k === index)));
  }

  async #cancel() {
    $("#status").textContent = "Cancelling";
    $("#draw").focus();
    await cancel(this.job.id);
  }
}
