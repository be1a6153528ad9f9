"use strict";
// Cells tell their samples: under the pointer, at the keyboard's focus, or pinned by a click.
// Arrow keys move inside a map, Escape closes. Every text is set as text, never as markup.
(() => {
  const told = JSON.parse(document.getElementById("samples").textContent);
  const tip = document.getElementById("tip");
  let pinned = null;

  const add = (parent, name, text) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };

  const pair = (list, name, value) => {
    if (value === null || value === undefined || value === "") return;
    add(list, "dt", name);
    add(list, "dd", String(value));
  };

  const fill = (cell) => {
    tip.replaceChildren();
    add(tip, "h4", cell.getAttribute("aria-label"));
    // A map's cell has one place, a difference's the two that it compares.
    const places = cell.dataset.place.split(" ").filter(Boolean);
    for (const place of places) {
      const arm = Number(place.split("/")[0]);
      if (places.length > 1) add(tip, "h5", told.labels[arm]);
      fillSamples(told.cells[place] || [], told.recipes[told.runs[arm]] || {});
    }
  };

  const fillSamples = (samples, shared) => {
    if (!samples.length) add(tip, "div", "No sample was run here.");
    for (const [repeat, status, answer, expected, question, span, depth, tokens, line, error, own]
      of samples) {
      const box = add(tip, "div");
      box.className = "sample";
      add(box, "b", `sample ${repeat + 1}: ${status.replace("_", " ")}`);
      const list = add(box, "dl");
      pair(list, "answer", answer);
      pair(list, "expected", expected);
      pair(list, "question", told.questions[question]);
      pair(list, "error", error);
      pair(list, "needle", span ? `tokens ${span[0]} to ${span[1]} of ${tokens}` : null);
      pair(list, "depth", depth === null ? null : `${depth}%`);
      pair(list, "recipe", Object.entries(own).map(([k, v]) => `${k} ${JSON.stringify(v)}`).join(", "));
      pair(list, "seed", own.seed === undefined ? shared.seed : null);
      pair(list, "record", line ? `results.jsonl line ${line}` : null);
    }
  };

  const show = (cell) => {
    fill(cell);
    tip.hidden = false;
    const box = cell.getBoundingClientRect();
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const page = document.documentElement;
    let left = box.right + 10;
    if (left + width > page.clientWidth - 8) left = box.left - width - 10;
    if (left < 8) left = Math.max(8, Math.min(box.left, page.clientWidth - width - 8));
    let top = Math.min(box.top, page.clientHeight - height - 8);
    // Where there is room on neither side it lies under the cell, not over it.
    if (left < box.right && left + width > box.left) top = box.bottom + 8;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${Math.max(8, top) + window.scrollY}px`;
  };

  const hide = () => {
    tip.hidden = true;
  };

  const pin = (cell) => {
    if (pinned) pinned.classList.remove("pinned");
    pinned = pinned === cell ? null : cell;
    if (pinned) {
      pinned.classList.add("pinned");
      show(pinned);
    } else {
      hide();
    }
  };

  for (const map of document.querySelectorAll("svg.map[data-columns]")) {
    const cells = [...map.querySelectorAll(".cell")];
    const columns = Number(map.dataset.columns);
    // Without this script the browser shows titles; with it they would lie on what is shown here.
    for (const title of map.querySelectorAll(".cell > title")) title.remove();
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    cells.forEach((cell, index) => {
      cell.addEventListener("pointerenter", () => pinned || show(cell));
      cell.addEventListener("pointerleave", () => pinned || hide());
      cell.addEventListener("focus", () => pinned || show(cell));
      cell.addEventListener("blur", () => pinned || hide());
      cell.addEventListener("click", () => pin(cell));
      cell.addEventListener("keydown", (event) => {
        const row = Math.floor(index / columns);
        let next = index + (steps[event.key] || 0);
        if (event.key === "Home") next = row * columns;
        else if (event.key === "End") next = row * columns + columns - 1;
        else if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          pin(cell);
          return;
        } else if (!(event.key in steps)) return;
        const sideways = event.key === "ArrowLeft" || event.key === "ArrowRight";
        if (sideways && Math.floor(next / columns) !== row) next = index;
        event.preventDefault();
        if (!cells[next]) return;
        cell.setAttribute("tabindex", "-1");
        cells[next].setAttribute("tabindex", "0");
        cells[next].focus();
      });
    });
  }

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (pinned) pinned.classList.remove("pinned");
    pinned = null;
    hide();
  });

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.printed:not([open])")];
    for (const one of opened) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
