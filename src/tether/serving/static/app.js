// The page: loads what the server offers, and joins form, result and history.

import { ApiError, get, hasEnded, onUnauthorized, readPicture, submit } from "./api.js";
import { $, announce, clearErrors, h } from "./dom.js";
import { Form } from "./form.js";
import { History } from "./history.js";
import { fileOf, toBase64, urlOf } from "./pictures.js";
import { Result } from "./result.js";

const LISTS = ["defaults", "limits", "kinds", "controls", "weightings", "samplers", "bases", "examples"];
const DRAFT = "tether-draft";
const TRIES = 60; // four a second, while the base is opened
const AGAIN = 2000; // milliseconds after which a server that was not ready is asked again
const NOT_READY = "Not ready: ";
const REST = 500; // milliseconds after a job in which a second click is not a second job

onUnauthorized((refused) => {
  const dialog = $("#login");
  $("#login-problem").textContent = refused ? "The server does not accept this token." : "";
  $("#token").value = "";
  let done = false;
  dialog.onclose = () => done || dialog.showModal(); // Escape closes it whatever "cancel" says, where nothing was clicked
  dialog.showModal();
  return new Promise((given) => {
    $("#login-form").onsubmit = (event) => {
      event.preventDefault();
      if (!$("#token").value.trim()) return;
      done = true;
      dialog.close();
      given($("#token").value.trim());
    };
  });
});

function problem(error) {
  const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  $("#problem").textContent = `${error.message}${wait}`;
}

/** What the server offers. Its base may still be opening: its size is then asked for again. */
async function catalogOf() {
  const lists = await Promise.all(LISTS.map((name) => get(`/v1/${name}`)));
  const catalog = Object.fromEntries(LISTS.map((name, index) => [name, lists[index]]));
  for (let tries = 0; !catalog.defaults.size && tries < TRIES; tries++) {
    $("#placeholder").textContent = "The base is being opened…";
    await new Promise((done) => setTimeout(done, 250));
    catalog.defaults = await get("/v1/defaults");
  }
  $("#placeholder").textContent = "Draw on the canvas, describe it, and press Draw.";
  return catalog;
}

/** Says why the base is not open, and tells the form when it is. What else is said there stays. */
async function awaitBase(form) {
  while (!form.catalog.defaults.size) {
    const said = $("#problem").textContent;
    try {
      const ready = await fetch("/readyz");
      if (!ready.ok && (!said || said.startsWith(NOT_READY))) problem({ message: NOT_READY + (await ready.text()) });
      await new Promise((done) => setTimeout(done, AGAIN));
      const defaults = await get("/v1/defaults");
      if (defaults.size) form.opened(defaults);
    } catch {
      await new Promise((done) => setTimeout(done, AGAIN)); // the server is away
    }
  }
  if ($("#problem").textContent.startsWith(NOT_READY)) $("#problem").textContent = "";
}

function showExamples(examples, form) {
  const chips = examples.map(({ name, request }) => {
    const { condition, photo } = request.controls[0];
    const fill = () => {
      form.fill(request);
      announce(`example: ${name}`);
      $("#draw").click();
    };
    return h("button", { type: "button", className: "chip", onclick: fill }, h("img", { src: urlOf(condition ?? photo), alt: "" }), name);
  });
  $("#examples").append(h("span", { className: "hint" }, "Try"), ...chips);
  $("#examples").hidden = !chips.length;
}

async function readRequest(file, form) {
  $("#problem").textContent = "";
  try {
    form.fill(await readPicture(await toBase64(file)));
    announce(`the request of ${file.name} is in the form`);
    $("#status").textContent = `The form has the request of ${file.name}.`;
    $("#prompt").focus();
  } catch (error) {
    const hint = error.status === 422 ? " To steer by it, drop it on the photo of a control." : "";
    problem({ message: `${file.name}: ${error.message}.${hint}` });
  }
}

function takeFiles(form) {
  $("#open").addEventListener("change", (event) => {
    if (event.target.files.length) readRequest(event.target.files[0], form);
    event.target.value = "";
  });
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return; // text may be dropped into a field
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    const file = fileOf(event.dataTransfer);
    if (file) readRequest(file, form);
    else problem({ message: `${event.dataTransfer.files[0].name} is not a picture.` });
  });
  addEventListener("paste", (event) => {
    const file = fileOf(event.clipboardData);
    if (file) readRequest(file, form);
  });
}

/** What was not drawn yet is there again after a reload, if it fits into the browser's store. */
function keepDraft(form) {
  try {
    const draft = sessionStorage.getItem(DRAFT);
    if (draft) form.fill(JSON.parse(draft));
  } catch {
    sessionStorage.removeItem(DRAFT);
  }
  addEventListener("pagehide", () => {
    sessionStorage.removeItem(DRAFT);
    for (const whole of [true, false]) {
      try {
        return sessionStorage.setItem(DRAFT, JSON.stringify(form.draft(whole)));
      } catch {
        // More than the store takes: without the pictures that would not be sent now.
      }
    }
  });
}

async function draw(form, result) {
  if ($("#draw").ariaDisabled === "true") return;
  clearErrors();
  $("#problem").textContent = "";
  let request;
  try {
    request = form.read();
  } catch (error) {
    return problem(error);
  }
  $("#draw").ariaDisabled = "true"; // disabled, it would lose the focus
  let rest = 0;
  try {
    const job = await submit(request);
    rest = REST;
    $("#stage").scrollIntoView({ block: "nearest" });
    result.show(job);
  } catch (error) {
    if (error instanceof ApiError && error.field) form.refuse(error.field, error.message);
    else problem(error instanceof ApiError ? error : { message: "The server cannot be reached." });
  } finally {
    setTimeout(() => ($("#draw").ariaDisabled = "false"), rest);
  }
}

async function begin() {
  const form = new Form(await catalogOf());
  const history = new History((id) => get(`/v1/jobs/${id}`).then((job) => result.show(job)).catch(problem), problem);
  const result = new Result({
    onChange: () => history.refresh().catch(() => {}),
    onFill: (request) => {
      form.fill(request);
      $("#prompt").focus();
      announce("the form is filled");
    },
    onStart: (base64) => form.startFrom(base64),
    onProblem: problem,
  });
  showExamples(form.catalog.examples, form);
  takeFiles(form);
  keepDraft(form);
  awaitBase(form);
  $("#request").addEventListener("submit", (event) => {
    event.preventDefault();
    draw(form, result);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const asked = event.ctrlKey || event.metaKey;
    if (asked || (event.repeat && event.target.tagName !== "TEXTAREA")) event.preventDefault(); // a held key is one click
    if (asked && !event.repeat) $("#draw").click();
  });
  document.body.dataset.ready = "true";
  const newest = await history.refresh();
  if (newest && !hasEnded(newest)) result.show(newest);
}

begin().catch(problem);
