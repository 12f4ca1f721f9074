"use strict";
(() => {
const $ = (root, selector) => [...root.querySelectorAll(selector)];
const element = (name, text = "", attributes = {}) => {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};
const said = document.getElementById("said");
const say = (text) => { said.textContent = ""; setTimeout(() => { said.textContent = text; }, 50); };

// Tables

const words = (cell) => cell.textContent.trim().replace(/\s+/g, " ");
const number = (cell) => (cell.dataset.v === undefined ? NaN : Number(cell.dataset.v));

function prepare(grid) {
  const heads = $(grid, "[data-col]"), body = grid.querySelector("tbody");
  const rows = () => [...body.rows];
  for (const head of heads) {
    head.querySelector("button").onclick = () => {
      const up = head.getAttribute("aria-sort") !== "ascending", column = Number(head.dataset.col);
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows().sort((a, b) => compare(a.cells[column], b.cells[column], up ? 1 : -1)));
      say(`Sorted by ${nameOf(head)}, ${up ? "ascending" : "descending"}`);
    };
  }
  const filter = grid.querySelector("input[type=search]"), count = grid.querySelector(".count");
  if (filter) filter.oninput = () => {
    const wanted = filter.value.toLowerCase().split(/\s+/);
    for (const row of rows()) row.hidden = !wanted.every((word) => words(row).toLowerCase().includes(word));
    const left = rows().filter((row) => !row.hidden).length;
    count.textContent = left === rows().length ? `${left} rows` : `${left} of ${rows().length} rows`;
    say(count.textContent);
  };
  for (const box of $(grid, "[data-source]")) box.onchange = () => {
    for (const head of heads.filter((h) => h.classList.contains(box.dataset.source))) {
      head.hidden = !box.checked;
      for (const row of rows()) row.cells[Number(head.dataset.col)].hidden = !box.checked;
    }
    for (const group of $(grid, "th[scope=colgroup]")) {
      const width = heads.filter((h) => h.dataset.group === words(group) && !h.hidden).length;
      group.hidden = width === 0;
      group.colSpan = Math.max(width, 1);
    }
  };
  for (const button of $(grid, "[data-copy]")) {
    button.onclick = () => copy(written(grid, heads, rows(), button.dataset.copy), button.textContent);
  }
}

function compare(a, b, sign) {  // what has no figure stands last either way
  const [x, y] = [number(a), number(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
  if (!Number.isNaN(x) || !Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  const [s, t] = [words(a), words(b)];
  return !s - !t || sign * s.localeCompare(t, "en", { numeric: true });
}

const nameOf = (head) => [head.dataset.group, words(head)].filter(Boolean).join(", ");

function written(grid, heads, rows, format) {  // the rows and columns that show, as they stand
  const columns = heads.filter((head) => !head.hidden).sort((a, b) => a.dataset.col - b.dataset.col);
  const table = [columns.map(nameOf), ...rows.filter((row) => !row.hidden)
    .map((row) => columns.map((head) => words(row.cells[Number(head.dataset.col)])))];
  const numeric = columns.map((head) => head.classList.contains("num"));
  return format === "latex" ? latex(grid.dataset.title, table, numeric) : markdown(grid.dataset.title, table, numeric);
}

function markdown(title, table, numeric) {
  const plain = (text) => text.replace(/([\\`*_[\]|<>])/g, "\\$1");
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const [head, ...rows] = table.map((cells) => line(cells.map(plain)));
  return [`### ${plain(title)}`, "", head, line(numeric.map((n) => (n ? "--:" : ":--"))), ...rows, ""].join("\n");
}

function latex(title, table, numeric) {
  const special = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "×": "$\\times$" };
  const plain = (text) => text.replace(/[\\~^<>×]|[&%$#_{}]/g, (c) => special[c] ?? `\\${c}`);
  const [head, ...rows] = table.map((cells) => `${cells.map(plain).join(" & ")} \\\\`);
  return ["\\begin{table}", `\\caption{${plain(title)}}`, `\\begin{tabular}{${numeric.map((n) => (n ? "r" : "l")).join("")}}`,
    "\\toprule", head, "\\midrule", ...rows, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""].join("\n");
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);  // there on disk and over https
  } catch {
    const area = element("textarea", text);
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");  // over plain http
    area.remove();
    if (!done) {
      const dialog = document.getElementById("by-hand");
      dialog.querySelector("textarea").value = text;
      dialog.showModal();
      dialog.querySelector("textarea").select();
      return;
    }
  }
  say(`${what}: copied`);
}

// Figures

const tip = element("div", "", { id: "tip" });
let pointedAt = null;  // the mark that the tip tells of
tip.hidden = true;
document.body.append(tip);

function placeTip() {
  if (!pointedAt) return;
  const box = tip.getBoundingClientRect(), at = pointedAt.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(at.right + 8, innerWidth - box.width - 8))}px`;
  tip.style.top = `${at.top > box.height + 12 ? at.top - box.height - 8 : at.bottom + 8}px`;
}

function prepareMarks(told) {  // told: by a mark's id, what is said of it; one series is set off together
  const series = new Map();
  for (const [id, { series: name, ...facts }] of Object.entries(told)) {
    const mark = document.getElementById(id), svg = mark?.closest("svg");
    if (!mark) continue;
    const key = `${svg.parentElement.parentElement.closest(".panel").id} ${name}`, first = name && !series.has(key);
    if (name) series.set(key, [...(series.get(key) ?? []), mark]);
    const others = () => (name ? series.get(key) : []);
    if (!name || first) mark.setAttribute("tabindex", 0);
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", Object.entries(facts).map((fact) => fact.join(": ")).join(", "));
    mark.classList.add("told");
    const show = () => {
      const list = element("dl");
      for (const [heading, text] of Object.entries(facts)) list.append(element("dt", heading), element("dd", text));
      tip.replaceChildren(list);
      tip.hidden = false;
      pointedAt = mark;
      placeTip();
      for (const each of others()) each.classList.add("set-off");
      svg.classList.toggle("some", others().length > 0);
    };
    const hide = () => {
      tip.hidden = true;
      pointedAt = null;
      for (const each of others()) each.classList.remove("set-off");
      svg.classList.remove("some");
    };
    mark.onpointerenter = mark.onfocus = show;
    mark.onpointerleave = mark.onblur = hide;
  }
}

function prepareTabs(box) {
  const tabs = $(box, "[role=tab]");
  const choose = (tab, focus) => {
    for (const other of tabs) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).classList.toggle("on", other === tab);
    }
    if (focus) tab.focus();
    tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  for (const tab of tabs) tab.onclick = () => choose(tab, false);
  box.querySelector("[role=tablist]").onkeydown = (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: (at + 1) % tabs.length, ArrowLeft: (at + tabs.length - 1) % tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(tabs[to], true);
  };
}

$(document, ".grid").forEach(prepare);
$(document, ".figures").forEach(prepareTabs);
prepareMarks(JSON.parse(document.getElementById("told").textContent));
addEventListener("scroll", placeTip, { passive: true });  // focus scrolls to its mark
document.documentElement.dataset.ready = "";
})();
