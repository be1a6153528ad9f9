// The right side: questions, answers as they come, where their words stand, and what they cost.

const TALK = "longctx-talk";
const REMEMBERED = 2000;  // characters of earlier turns that go with a question

let talk = JSON.parse(localStorage.getItem(TALK) || "[]");  // [{question, answer, about, cost, places}]
let running = null;

function saveTalk() {
  try {
    localStorage.setItem(TALK, JSON.stringify(talk.slice(-100)));
  } catch {
    // The browser's store is full: the conversation stays in this tab.
  }
  byId("export").disabled = byId("clear").disabled = !talk.length;
}

const chosenDocuments = () => chosen.map((id) => stored.find((each) => each.id === id)).filter(Boolean);

function tellAskedAbout() {
  const names = chosenDocuments().map((each) => each.name);
  byId("asked-about").textContent = names.length
    ? `About ${names.join(", then ")}.`
    : "About no document: choose some on this page, or just ask.";
}

function showTurn(turn) {
  const answer = element("p", { class: "text", text: turn.answer });
  const cost = element("p", { class: "muted", text: turn.cost || "" });
  const places = element("ul", { class: "places", "aria-label": "Where the answer's words stand" });
  const item = element("li", {},
    element("p", { class: "who", text: turn.about.length ? `You, about ${turn.about.join(", ")}` : "You" }),
    element("p", { class: "text", text: turn.question }),
    element("p", { class: "who", text: served.id || "Answer" }), answer, places, cost);
  byId("talk").append(item);
  return { answer, cost, places, item };
}

function remembered() {
  const kept = [];
  let size = 0;
  for (const turn of [...talk].reverse()) {
    size += turn.question.length + turn.answer.length;
    if (size > REMEMBERED || turn.failed) break;
    kept.unshift({ role: "user", content: turn.question }, { role: "assistant", content: turn.answer });
  }
  return kept;
}

function showCost(usage, seconds, first) {
  const details = usage.prompt_tokens_details || {};
  const speed = seconds > first ? (usage.completion_tokens - 1) / (seconds - first) : 0;
  return [
    `${number(usage.prompt_tokens)} tokens read`,
    `${number(details.cached_tokens || 0)} of them reused`,
    `first word after ${showSeconds(first)}`,
    ...(usage.completion_tokens > 1 && speed ? [`${number(usage.completion_tokens)} tokens at ${speed.toFixed(1)} a second`] : []),
  ].join(" · ");
}

async function showPlaces(turn, shown, documents) {
  for (const one of documents) {
    const text = await textOf(one.id).catch(() => "");
    shown.places.append(...placesOf(turn.answer, text).map((place) => showPlace(one.name, text, place)));
  }
}

async function ask(event) {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || running) return;
  alarm("");
  const documents = chosenDocuments(), system = byId("system").value.trim();
  const turn = { question, answer: "", about: documents.map((each) => each.name), cost: "" };
  const body = {
    model: served.id || undefined,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...remembered(), { role: "user", content: question }],
    temperature: Number(byId("temperature").value),
    max_tokens: Number(byId("most").value) || undefined,
    stream: true,
    stream_options: { include_usage: true, include_progress: true },
    ...(documents.length ? { document_ids: documents.map((each) => each.id) } : {}),
  };
  const shown = showTurn(turn), began = performance.now();
  let first = null, usage = null, stopped = false;
  running = new AbortController();
  byId("send").disabled = true;
  byId("stop").hidden = false;
  byId("status").textContent = "Asked…";
  try {
    const answer = await call("/v1/chat/completions", { ...asJson(body), signal: running.signal });
    byId("question").value = "";
    for await (const one of events(answer)) {
      const progress = one.prompt_progress, delta = one.choices && one.choices[0] && one.choices[0].delta;
      if (progress && first === null) {
        const left = progress.eta_ms === null ? "" : `, about ${showSeconds(progress.eta_ms / 1000)} left`;
        byId("status").textContent = `Reading: ${number(progress.processed)} of ${number(progress.total)} tokens${left}`;
      }
      if (delta && delta.content) {
        first ??= (performance.now() - began) / 1000;
        byId("status").textContent = "Answering…";
        turn.answer += delta.content;
        shown.answer.textContent = turn.answer;
      }
      usage = one.usage || usage;
    }
  } catch (error) {
    stopped = error.name === "AbortError";
    turn.failed = true;
    if (!stopped) alarm(error.message);
  }
  running = null;
  byId("send").disabled = false;
  byId("stop").hidden = true;
  if (usage) turn.cost = showCost(usage, (performance.now() - began) / 1000, first ?? 0);
  else turn.cost = stopped ? "Stopped." : "No answer.";
  if (!turn.answer && turn.failed && !stopped) shown.item.remove();
  else talk.push(turn);
  shown.cost.textContent = turn.cost;
  byId("status").textContent = turn.failed ? "" : "Answered.";
  saveTalk();
  if (turn.answer) await showPlaces(turn, shown, documents);
}

function asMarkdown() {
  return talk.map((turn) => [
    `## ${turn.question}`, ...(turn.about.length ? [`*About ${turn.about.join(", ")}*`] : []), turn.answer,
    ...(turn.cost ? [`<small>${turn.cost}</small>`] : []),
  ].join("\n\n")).join("\n\n") + "\n";
}

function saveMarkdown() {
  const link = element("a", { download: "conversation.md" });
  link.href = URL.createObjectURL(new Blob([asMarkdown()], { type: "text/markdown" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function listen() {
  byId("ask").addEventListener("submit", ask);
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(event);
  });
  byId("stop").addEventListener("click", () => running && running.abort());
  byId("export").addEventListener("click", saveMarkdown);
  byId("clear").addEventListener("click", () => { talk = []; byId("talk").replaceChildren(); saveTalk(); byId("question").focus(); });
  const drop = byId("drop");
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", dropped);
  // Beside the field a file would replace the page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
  byId("files").addEventListener("change", async (event) => {
    alarm("");
    const files = [...event.target.files];
    event.target.value = "";
    for (const file of files) await handIn(file.name, file);
  });
  byId("folder").addEventListener("change", async (event) => {
    alarm("");
    const files = [...event.target.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
    event.target.value = "";
    if (files.length) await handInFolder(files);
  });
  const form = byId("paste-form"), paste = byId("paste");
  const toggle = (shown) => { form.hidden = !shown; paste.setAttribute("aria-expanded", shown); };
  toggle(false);
  paste.addEventListener("click", () => { toggle(form.hidden); if (!form.hidden) byId("paste-text").focus(); });
  byId("paste-cancel").addEventListener("click", () => { toggle(false); paste.focus(); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = byId("paste-name").value.trim() || "pasted text", text = byId("paste-text").value;
    byId("paste-text").value = "";
    toggle(false);
    await handIn(name, new File([text], name, { type: "text/plain" }));
  });
  for (const id of ["system", "temperature", "most"]) {
    const field = byId(id), kept = localStorage.getItem(`longctx-${id}`);
    if (kept !== null) field.value = kept;
    field.addEventListener("change", () => localStorage.setItem(`longctx-${id}`, field.value));
  }
}

async function begin() {
  listen();
  talk.forEach(showTurn);
  saveTalk();
  for (;;) {
    try {
      if (await whatIsServed()) break;
    } catch (error) {
      alarm(error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  alarm("");
  await refresh();
}

begin();
