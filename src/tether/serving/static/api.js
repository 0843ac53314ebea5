// The native API. Everything goes through `call`: it shows the token, asks for one when it is needed, and turns a
// refusal into an ApiError with the field that is wrong.

const TOKEN = "tether-token";
let token = sessionStorage.getItem(TOKEN) ?? "";
let asking = null;
let askForToken = null;

export class ApiError extends Error {
  constructor(status, { message, field }, retryAfter = null) {
    super(message);
    this.status = status;
    this.field = field ?? null;
    this.retryAfter = retryAfter;
  }
}

/** `ask(wrong)` is called when a token is needed, and promises one; `wrong` is whether one was refused. */
export function onUnauthorized(ask) {
  askForToken = ask;
}

function newToken(refused) {
  asking ??= askForToken(refused !== "")
    .then((given) => {
      token = given;
      sessionStorage.setItem(TOKEN, token);
    })
    .finally(() => (asking = null));
  return asking;
}

/** A request to this server; resolves when it is answered with a status below 400. */
export async function call(method, path, { body, headers = {}, signal } = {}) {
  for (;;) {
    const shown = token;
    const authorization = shown ? { Authorization: `Bearer ${shown}` } : {};
    // Without credentials the browser does not ask for a password of its own.
    const how = { method, body, signal, headers: { ...headers, ...authorization }, credentials: "omit" };
    const answer = await fetch(path, how);
    if (answer.ok) return answer;
    if (answer.status === 401) {
      if (shown === token) await newToken(shown);
      continue;
    }
    let error = { message: `the server answered ${answer.status}` };
    try {
      error = (await answer.json()).error ?? error;
    } catch {
      // A proxy's own page, for example.
    }
    throw new ApiError(answer.status, error, answer.headers.get("Retry-After"));
  }
}

export const get = async (path) => (await call("GET", path)).json();

const asJson = (values) => ({ body: JSON.stringify(values), headers: { "Content-Type": "application/json" } });

// Seeds have up to 64 bits, more than numbers have here: they are kept as text, "7" or "7,8". In a JSON text a quote
// inside of a string is \", so that these patterns meet fields alone.
const readSeeds = (text) =>
  text.replace(/("seed":\s*)(\d+|\[[\d,\s]*\])/g, (_, key, seeds) => `${key}"${seeds.replace(/[[\]\s]/g, "")}"`);
const writeSeeds = (text) =>
  text.replace(/"seed":"(\d+(?:,\d+)*)"/g, (_, seeds) => `"seed":${seeds.includes(",") ? `[${seeds}]` : seeds}`);

async function requestOf(answer) {
  return JSON.parse(readSeeds(await answer.text()));
}

/** The request that a PNG carries; its content is base64. */
export const readPicture = async (image) => requestOf(await call("POST", "/v1/read", asJson({ image })));

export const requestOfJob = async (id) => requestOf(await call("GET", `/v1/jobs/${id}/request`));

export async function annotate(values, signal) {
  return (await call("POST", "/v1/annotate", { ...asJson(values), signal })).blob();
}

/** Accepts a job. Once more with the same key when the connection breaks: it stays one job. */
export async function submit(request) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  const how = { body: writeSeeds(JSON.stringify(request)), headers };
  try {
    return await (await call("POST", "/v1/jobs", how)).json();
  } catch (error) {
    if (error instanceof ApiError) throw error;
    return (await call("POST", "/v1/jobs", how)).json();
  }
}

export const cancel = async (id) => (await call("DELETE", `/v1/jobs/${id}`)).json();

/** An object URL of a picture of the server. */
export async function picture(path) {
  return URL.createObjectURL(await (await call("GET", path)).blob());
}

export const hasEnded = (job) => !["queued", "running"].includes(job.state);

/** Follows a job to its end: `onEvent(job)` for each state and step. When the stream breaks, `onLost()`, and again. */
export async function follow(id, onEvent, onLost, signal) {
  let last = null;
  while (!signal.aborted) {
    try {
      const answer = await call("GET", `/v1/jobs/${id}/events?preview=true`, { signal });
      for await (const job of events(answer.body)) {
        last = job;
        onEvent(job);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status === 404) throw error;
    }
    if (last && hasEnded(last)) return;
    onLost();
    await new Promise((done) => setTimeout(done, 1000));
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}
