// The left side: what is handed in waits with its size and time, is read, and stays.

const CHOSEN = "longctx-chosen";
const READABLE = 64 << 20;
// What a folder holds and nobody means.
const LEFT_OUT = /(^|\/)(\.[^/]+|node_modules|__pycache__|dist|build|target|venv)(\/|$)/;

let stored = [];
let chosen = JSON.parse(localStorage.getItem(CHOSEN) || "[]");
const texts = new Map();  // by id, of documents that were looked into
const began = new Map();  // by id: {at, processed}, for the time that is left

function saveChosen() {
  localStorage.setItem(CHOSEN, JSON.stringify(chosen));
  tellAskedAbout();
}

async function textOf(id) {
  if (!texts.has(id)) texts.set(id, (await (await call(`/v1/documents/${id}/content`)).text()));
  return texts.get(id);
}

// By the server's own measure, else by what this browser saw when it read last, else by the
// server's first estimate. Tokens a second:
const SPEED = "longctx-speed";
function timeToRead(told) {
  const seen = told.seconds_estimated ? Number(localStorage.getItem(SPEED)) : 0;
  const seconds = seen ? told.tokens / seen : told.seconds;
  if (seconds === null) return "";
  return ` · about ${showSeconds(seconds)} to read${told.seconds_estimated && !seen ? " (first estimate)" : ""}`;
}

// -- handed in

function form(name, file) {
  const made = new FormData();
  made.set("name", name);
  made.set("file", file, name);
  return { method: "POST", body: made };
}

async function handIn(name, file) {
  const note = element("p", { class: "muted", text: "Looking at it…" });
  const head = element("div", { class: "head" }, element("p", { class: "name", text: name }));
  const item = element("li", {}, head, note);
  byId("waiting").append(item);
  const away = () => item.remove();
  const close = element("button", { type: "button", text: "Leave out", onclick: away });
  close.setAttribute("aria-label", `Leave out ${name}`);
  head.append(close);
  if (file.size > READABLE) {
    note.textContent = `${showBytes(file.size)}: more than this page takes (${showBytes(READABLE)}).`;
    note.className = "over-limit";
    return;
  }
  try {
    const told = await (await call("/v1/documents/preview", form(name, file))).json();
    const over = told.tokens - told.max_tokens;
    note.textContent = `${number(told.tokens)} of ${number(told.max_tokens)} tokens` +
      timeToRead(told) +
      (told.notes.length ? ` · ${told.notes.join(" · ")}` : "");
    const bar = element("progress", { max: told.max_tokens, value: Math.min(told.tokens, told.max_tokens) });
    bar.setAttribute("aria-label", `${name}: part of what the model can read at a time`);
    item.append(bar);
    if (over > 0) {
      note.className = "over-limit";
      note.textContent += `: too long by ${number(over)}. About the first ` +
        `${number(100 * told.max_tokens / told.tokens)} % of it would fit.`;
      return;
    }
    const read = element("button", { type: "button", class: "primary", text: "Read it" });
    read.setAttribute("aria-label", `Read ${name}`);
    read.addEventListener("click", async () => {
      read.disabled = true;
      try {
        const added = await (await call("/v1/documents", form(name, file))).json();
        item.remove();
        if (!chosen.includes(added.id)) chosen.push(added.id);
        saveChosen();
        await refresh();
        byId("question").focus();
      } catch (error) {
        read.disabled = false;
        note.textContent = error.message;
        note.className = "over-limit";
      }
    });
    head.insertBefore(read, close);
    read.focus();
  } catch (error) {
    note.textContent = error.message;
    note.className = "over-limit";
  }
}

// A folder is one document: each file under its path.
async function handInFolder(files) {
  const kept = files.filter((each) => !LEFT_OUT.test(each.path)).sort((a, b) => (a.path < b.path ? -1 : 1));
  const parts = [];
  let skipped = files.length - kept.length;
  for (const { path, file } of kept) {
    const text = await file.text();
    if (file.size > READABLE || text.includes("\0") || text.includes("\ufffd")) skipped += 1;
    else parts.push(`# ${path}\n\n${text}\n`);
  }
  const name = files[0] ? files[0].path.split("/")[0] : "folder";
  if (!parts.length) {
    alarm(`${name}: no file of text is in it.`);
    return;
  }
  if (skipped) alarm(`${name}: ${number(skipped)} files that are no text, or hidden, were left out.`);
  await handIn(name, new File([parts.join("\n")], `${name}.txt`, { type: "text/plain" }));
}

async function walk(entry, path = "") {
  const here = path ? `${path}/${entry.name}` : entry.name;
  if (entry.isFile) return [{ path: here, file: await new Promise((y, n) => entry.file(y, n)) }];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((y, n) => reader.readEntries(y, n));
    if (!some.length) return found;
    for (const each of some) if (!LEFT_OUT.test(`/${each.name}`)) found.push(...await walk(each, here));
  }
}

async function dropped(event) {
  event.preventDefault();
  byId("drop").classList.remove("over");
  alarm("");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
  const files = [...event.dataTransfer.files];
  for (const [at, entry] of entries.entries()) {
    if (entry && entry.isDirectory) await handInFolder(await walk(entry));
    else if (files[at]) await handIn(files[at].name, files[at]);
  }
}

// -- kept

function showState(told) {
  const { processed, total } = told.progress;
  if (told.state === "failed") return told.reason || "could not be read";
  if (told.state === "ready" || (told.state === "stored" && processed === total)) {
    return [
      told.tokens === null ? `${number(told.characters)} characters` : `${number(told.tokens)} tokens`,
      told.persistent ? `${showBytes(told.bytes)} on the disk` : "kept until the server ends",
      ...(told.reason ? [told.reason] : []),
    ].join(" · ");
  }
  if (told.state === "queued") return "waits to be read";
  if (told.state !== "prefill" || total === null) return `${number(told.characters)} characters, read when it is asked about`;
  const from = began.get(told.id) || { at: performance.now(), processed };
  began.set(told.id, from);
  const done = processed - from.processed, seconds = (performance.now() - from.at) / 1000;
  if (seconds > 1 && done > 0) localStorage.setItem(SPEED, done / seconds);
  const left = done > 0 ? ` · about ${showSeconds((total - processed) * seconds / done)} left` : "";
  return `reading: ${number(processed)} of ${number(total)} tokens${left}`;
}

function storedItem(told) {
  const { processed, total } = told.progress, busy = told.state === "prefill" || told.state === "queued";
  const box = element("input", { type: "checkbox" });
  box.checked = chosen.includes(told.id);
  box.addEventListener("change", () => {
    chosen = chosen.filter((id) => id !== told.id);
    if (box.checked) chosen.push(told.id);
    saveChosen();
  });
  const end = element("button", { type: "button", text: busy ? "Cancel" : "Delete", onclick: () => remove(told) });
  end.setAttribute("aria-label", `${busy ? "Cancel" : "Delete"} ${told.name}`);
  const item = element("li", { "data-id": told.id, "data-state": told.state },
    element("div", { class: "head" },
      element("label", { class: "name" }, box, element("span", { text: told.name })), end),
    element("p", { class: told.state === "failed" ? "over-limit" : "muted", text: showState(told) }));
  if (busy) {
    const bar = element("progress", total === null ? {} : { max: total, value: processed });
    bar.setAttribute("aria-label", `${told.name}: read so far`);
    item.append(bar);
  }
  return item;
}

async function remove(told) {
  try {
    await call(`/v1/documents/${told.id}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) alarm(error.message);
  }
  chosen = chosen.filter((id) => id !== told.id);
  texts.delete(told.id);
  saveChosen();
  await refresh();
  byId("files").focus();
}

let timer = null;
async function refresh() {
  clearTimeout(timer);
  try {
    stored = (await get("/v1/documents")).data;
  } catch (error) {
    alarm(error.message);
    timer = setTimeout(refresh, 3000);
    return;
  }
  const focused = document.activeElement, within = focused && focused.closest("#stored > li");
  const list = byId("stored"), at = within && [...within.querySelectorAll("input, button")].indexOf(focused);
  list.replaceChildren(...stored.map(storedItem));
  if (within) {
    const again = list.querySelector(`li[data-id="${CSS.escape(within.dataset.id)}"]`);
    if (again) again.querySelectorAll("input, button")[at].focus();
  }
  const bytes = stored.reduce((sum, each) => sum + each.bytes, 0);
  byId("stored-size").textContent = bytes ? `(${showBytes(bytes)})` : "";
  byId("none-stored").hidden = stored.length > 0;
  const there = chosen.filter((id) => stored.some((each) => each.id === id));
  if (there.length !== chosen.length) { chosen = there; saveChosen(); } else tellAskedAbout();
  const busy = stored.some((each) => ["prefill", "queued"].includes(each.state));
  timer = setTimeout(refresh, busy ? 500 : 15000);
}
