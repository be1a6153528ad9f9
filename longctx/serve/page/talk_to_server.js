// Requests to the server, and its errors in words that a person can act on.

const byId = (id) => document.getElementById(id);
const number = (value) => Math.round(value).toLocaleString("en");

let served = { id: "", limit: 0 };

function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") made.textContent = value;
    else if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function showBytes(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let at = -1;
  do { bytes /= 1024; at += 1; } while (bytes >= 1024 && at < units.length - 1);
  return `${bytes.toFixed(bytes < 10 ? 1 : 0)} ${units[at]}`;
}

function showSeconds(seconds) {
  if (seconds < 1) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function alarm(message) {
  const place = byId("alert");
  place.textContent = message;
  place.hidden = !message;
}

class ServerError extends Error {
  constructor(status, error) {
    super(inWords(status, error));
    this.status = status;
    this.code = error.code;
  }
}

function inWords(status, error) {
  if (error.code === "context_length_exceeded" && error.max_context) {
    const asked = error.prompt_tokens + (error.max_tokens || 0);
    const over = asked - error.max_context;
    const least = error.at_least ? "at least " : "";
    return `Too long by ${least}${number(over)} tokens: documents, question and answer come to ${least}` +
      `${number(asked)}, and ${served.id || "the model"} takes ${number(error.max_context)}. ` +
      `About ${number(100 * over / asked)} % less text would fit, or shorter answers (settings).`;
  }
  if (error.code === "insufficient_memory") {
    return `This machine has memory for ${number(error.fitting_tokens)} tokens at a time, and ` +
      `${number(error.asked_tokens)} are asked for. Leave a document out, or start the server with a larger --kv-budget.`;
  }
  if (error.code === "body_too_large") {
    return `The file is too large for this server (${showBytes(error.max_body_bytes)} at most). ` +
      "Cut it, or start the server with a larger --max-body.";
  }
  if (status === 503) return `${error.message} Try again in a moment.`;
  if (status === 429) return "The server has too many questions waiting. Try again in a moment.";
  return error.message || `The server answered ${status}.`;
}

// -- the key, where the server wants one

function keyed(headers = {}) {
  const key = sessionStorage.getItem("longctx-key");
  return key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
}

let asking = null;
function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-form").onsubmit = () => {
      sessionStorage.setItem("longctx-key", byId("key").value);
      byId("key").value = "";
      asking = null;
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
  });
  return asking;
}

async function call(path, options = {}) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: keyed(options.headers), cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is it still running?");
    }
    if (answer.status === 401) {
      await askForKey();
      continue;
    }
    if (!answer.ok) {
      const told = await answer.json().catch(() => ({}));
      throw new ServerError(answer.status, told.error || {});
    }
    return answer;
  }
}

async function get(path) {
  return (await call(path)).json();
}

const asJson = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

// Events of a stream, one after the other; an error among them is thrown.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new ServerError(500, event.error);
      yield event;
    }
  }
}

async function whatIsServed() {
  const told = (await get("/v1/models")).data[0];
  served = { id: told.id, limit: told.max_model_len || 0 };
  byId("model").textContent = served.limit
    ? `${told.id} · reads up to ${number(served.limit)} tokens at a time`
    : `${told.id} is being loaded…`;
  const facts = byId("facts");
  facts.replaceChildren();
  const plain = (value) => (value !== null && typeof value === "object")
    ? Object.entries(value).map(([name, one]) => `${name} ${plain(one)}`).join(", ") : String(value);
  for (const [name, value] of Object.entries(told)) {
    if (["id", "object", "created", "owned_by", "max_model_len"].includes(name) || value === null) continue;
    facts.append(element("dt", { text: name.replaceAll("_", " ") }), element("dd", { text: plain(value) }));
  }
  return Boolean(served.limit);
}
