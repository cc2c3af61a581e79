"use strict";
const told = JSON.parse(document.getElementById("told").textContent);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

/** Make an element; attributes that are null are left out, children are text or elements. */
function make(tag, attributes = {}, ...children) {
  const space = tag === "svg" || tag === "rect" || tag === "title" ? "http://www.w3.org/2000/svg" : null;
  const element = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/* Light and dark: as the system says, until the button says otherwise. */
const kept = {
  get: () => { try { return localStorage.getItem("bench-theme"); } catch { return null; } },
  set: (value) => { try { localStorage.setItem("bench-theme", value); } catch { /* a page of its own */ } },
};
const system = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");
const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
function sayTheme() { themeButton.textContent = isDark() ? "☀ Light" : "☾ Dark"; }
if (kept.get()) document.documentElement.dataset.theme = kept.get();
sayTheme();
system.addEventListener("change", sayTheme);
themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  kept.set(document.documentElement.dataset.theme);
  sayTheme();
});

/* The grid: sorted by a column's button, filtered by the form above it. */
for (const article of all("article")) {
  const form = article.querySelector("form");
  const body = article.querySelector(".grid tbody");
  const rows = [...body.rows];
  const headers = all("th[data-sort]", article);
  // The columns of the second line of headers stand before the last three of the first.
  const first = headers.filter((th) => th.rowSpan === 2);
  const columns = [...first.slice(0, 3), ...headers.filter((th) => th.rowSpan === 1), ...first.slice(3)];

  function sort(th) {
    const column = columns.indexOf(th), number = th.dataset.sort === "number";
    const was = th.getAttribute("aria-sort");
    const next = was === null ? (number ? "descending" : "ascending")
      : was === (number ? "descending" : "ascending") ? (number ? "ascending" : "descending") : null;
    headers.forEach((one) => one.removeAttribute("aria-sort"));
    if (next === null) { body.append(...rows); return; }
    th.setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => number ? a - b : a.localeCompare(b, "en", { numeric: true });
    body.append(...[...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what is missing is last either way
      return sign * compare(x, y);
    }));
  }

  function filter() {
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const family = form.elements.family.value;
    const protocols = new Set(all("[name=protocol]:checked", form).map((box) => box.value));
    const kind = form.elements.seeds.checked ? "cell" : "mean";
    let count = 0, of = 0;
    const shown = new Set();
    for (const row of rows) {
      const text = `${row.textContent} ${row.dataset.family}`.toLowerCase();
      const fits = words.every((word) => text.includes(word))
        && (!family || row.dataset.family === family) && protocols.has(row.dataset.protocol);
      row.hidden = !row.classList.contains(kind) || !fits;
      of += row.classList.contains(kind);
      count += !row.hidden;
      if (!row.hidden) shown.add(row.dataset.zoo);
    }
    form.querySelector("output").textContent = `${count} of ${of} rows`;
    dim(article, (zoo) => !shown.has(zoo));
    return shown;
  }

  headers.forEach((th) => th.querySelector("button").addEventListener("click", () => sort(th)));
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("[type=reset]").addEventListener("click", (event) => {
    event.preventDefault();
    form.reset();
    filter();
  });
  for (const [on, off] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    body.addEventListener(on, (event) => {
      const zoo = event.target.closest("tr")?.dataset.zoo;
      if (zoo) dim(article, (other) => other !== zoo);
    });
    body.addEventListener(off, filter);
  }
  filter();
}

/** Let the figures step back where they are about other checkpoints. */
function dim(article, hides) {
  for (const mark of all(".plot [data-zoo]", article)) {
    mark.classList.toggle("dim", hides(mark.dataset.zoo));
  }
}

/* Where a number is from. */
const about = document.getElementById("about");
function tell(keys, title) {
  document.getElementById("about-title").textContent = title;
  const cells = keys.map((key) => told.cells[key]).filter(Boolean);
  about.querySelector(".body").replaceChildren(...cells.flatMap((cell, number) => {
    const inside = [...cell.sections.map(section), ...Object.entries(cell.classes).map(scores)];
    if (cells.length === 1) return inside;
    const name = make("summary", {}, `seed ${cell.seed} · ${cell.name}`);
    return [make("details", { open: number === 0 ? "" : null }, name, ...inside)];
  }));
  about.showModal();
  about.scrollTop = 0;
}
function section([title, lines]) {
  const facts = lines.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  const list = make("dl", { class: "facts" }, ...facts);
  if (title !== "values") return make("section", {}, make("h3", {}, title), list);
  return make("details", {}, make("summary", {}, `values (${lines.length})`), list);
}
function scores([task, lines]) {
  const names = { sem: "IoU of semantic classes", driv: "IoU of drivable classes", det: "AP of box classes" };
  const bars = lines.flatMap(([name, value]) => [
    make("span", {}, name),
    make("i", { style: `--share:${value ?? 0}` }),
    make("span", {}, value === null ? "–" : value.toFixed(1)),
  ]);
  return make("section", {}, make("h3", {}, names[task]), make("div", { class: "bars" }, ...bars));
}
for (const cell of all(".results td[data-keys] .value")) { // of the paper's tables
  const button = make("button", { type: "button", class: "origin value" }, cell.textContent);
  Object.assign(button.dataset, cell.closest("td").dataset);
  cell.replaceWith(button);
}
document.addEventListener("click", (event) => {
  const button = event.target.closest(".origin");
  if (button) {
    const row = button.closest("tr"), name = row.querySelector("th").firstChild.textContent;
    const what = [name, row.dataset.protocol, button.dataset.metric, button.dataset.metric && button.textContent];
    tell(button.dataset.keys.split(" "), what.filter(Boolean).join(" · "));
  } else if (event.target === about || event.target.closest(".close")) {
    about.close();
  }
});

/* Pictures of a few frames. */
for (const [id, panels] of Object.entries(told.panels)) {
  const block = document.getElementById(`${id}-panels`);
  if (!panels.frames.length) continue;
  block.hidden = false;
  const form = block.querySelector("form");
  for (const option of all("option", form)) option.hidden = !panels.found[option.value];
  form.elements.zoo.value = Object.keys(panels.found)[0];

  function draw() {
    const found = panels.found[form.elements.zoo.value];
    const layers = ["sem", "driv", "det"].filter((task) => form.elements[task].checked);
    const names = Object.keys(found);
    const grid = block.querySelector(".frames");
    grid.style.gridTemplateColumns = `repeat(${names.length + 2}, minmax(0, 1fr))`;
    grid.replaceChildren(
      ...["Frame", "Ground truth", ...names].map((name) => make("div", { class: "head" }, name)),
      ...panels.frames.flatMap((frame) => [
        picture(frame, {}, [], frame.name),
        picture(frame, frame.truth, layers, missing(frame, layers)),
        ...names.map((name) => picture(frame, found[name][frame.name] ?? {}, layers, "")),
      ]),
    );
    block.querySelector(".legend").replaceChildren(...layers.flatMap((task) => [
      make("b", {}, { sem: "Semantic", driv: "Drivable", det: "Boxes" }[task]),
      ...told.legend[task].filter(([name]) => name !== "background")
        .map(([name, color]) => make("span", { style: `--of:${color}` }, name)),
    ]));
  }
  form.addEventListener("input", draw);
  draw();
}
function missing(frame, layers) {
  const names = layers.filter((task) => !(task in frame.truth));
  return names.length ? `no label for ${names.join(", ")}` : "";
}
function picture(frame, drawn, layers, caption) {
  const [height, width] = frame.size_hw;
  const figure = make("figure", {}, make("img", { src: frame.image, alt: caption || "prediction", width, height, style: "height:auto" }));
  for (const task of layers.filter((one) => one in drawn)) {
    figure.append(task === "det" ? boxes(drawn.det, width, height)
      : make("img", { class: `layer ${task}`, src: drawn[task], alt: "" }));
  }
  const whole = make("div", {}, figure);
  if (caption) whole.append(make("figcaption", {}, caption));
  return whole;
}
function boxes(list, width, height) {
  const drawing = make("svg", { class: "layer", viewBox: `0 0 ${width} ${height}` });
  for (const [x1, y1, x2, y2, kind, score] of list) {
    const [name, color] = told.legend.det[kind];
    const said = score === undefined ? name : `${name} ${score}`;
    drawing.append(make("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, stroke: color }, make("title", {}, said)));
  }
  return drawing;
}
