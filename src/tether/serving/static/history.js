// What was drawn before: the jobs that the server keeps.

import { get, hasEnded, picture } from "./api.js";
import { $, h } from "./dom.js";

const PAGE = 24;
const MOST = 200; // jobs that the server lists at once
const WAIT = 4000; // milliseconds between looks at jobs that wait or run

export class History {
  constructor(onChoose, onProblem) {
    this.onChoose = onChoose;
    this.shown = new Map(); // id -> { job, node }
    $("#older").addEventListener("click", () => this.#older().catch(onProblem));
  }

  /** Looks for new jobs and new states; returns the newest job. */
  async refresh() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh().catch(() => {}), WAIT);
    const { jobs } = await get(`/v1/jobs?limit=${PAGE}`);
    for (const job of [...jobs].reverse()) this.#put(job, true);
    if (jobs.length) await this.#lookBefore(jobs.at(-1).number);
    if (!this.all && jobs.length < PAGE) this.all = true;
    this.#tidy();
    if (!this.#waiting().length) clearTimeout(this.timer);
    return jobs[0] ?? null;
  }

  /** Numbers of the jobs that are shown and have not ended. */
  #waiting() {
    return [...this.shown.values()].filter(({ job }) => !hasEnded(job)).map(({ job }) => job.number);
  }

  /** Looks for new states of the jobs that are shown, before a number. */
  async #lookBefore(before) {
    const oldest = Math.min(...this.#waiting());
    while (before > oldest) {
      const { jobs } = await get(`/v1/jobs?limit=${MOST}&before=${before}`);
      for (const job of jobs) if (this.shown.has(job.id)) this.#put(job);
      before = jobs.at(-1)?.number ?? oldest;
    }
  }

  #tidy() {
    $("#no-history").hidden = this.shown.size > 0;
    $("#older").hidden = this.all || this.shown.size === 0;
  }

  async #older() {
    const before = Math.min(...[...this.shown.values()].map(({ job }) => job.number));
    const { jobs } = await get(`/v1/jobs?limit=${PAGE}&before=${before}`);
    for (const job of jobs) this.#put(job, false);
    this.all = jobs.length < PAGE;
    this.#tidy();
  }

  #put(job, first) {
    const known = this.shown.get(job.id);
    if (known?.job.state === job.state) return;
    const node = this.#entry(job);
    this.shown.set(job.id, { job, node });
    if (known) known.node.replaceWith(node);
    else if (first) $("#history").prepend(node);
    else $("#history").append(node);
  }

  #entry(job) {
    const when = new Date(job.created * 1000);
    const label = `${job.prompt || "without a prompt"}, ${job.state}, ${when.toLocaleString()}`;
    const face = h("span", { className: `face ${job.state}` }, job.state === "done" ? null : job.state);
    const button = h("button", { type: "button", "aria-label": label, title: label, onclick: () => this.onChoose(job.id) }, face);
    if (job.images.length) this.#thumbnail(face, job.images[0].url);
    if (job.count > 1) button.append(h("span", { className: "count", "aria-hidden": "true" }, String(job.count)));
    return h("li", {}, button);
  }

  async #thumbnail(face, url) {
    try {
      const src = await picture(url);
      face.append(h("img", { src, alt: "", onload: () => URL.revokeObjectURL(src) }));
    } catch {
      face.textContent = "gone";
    }
  }
}
