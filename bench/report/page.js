"use strict";
(() => {
const $ = (root, selector) => [...root.querySelectorAll(selector)];
const words = (cell) => cell.textContent.trim().replace(/\s+/g, " ");
const said = document.getElementById("said");
const say = (text) => { said.textContent = ""; setTimeout(() => { said.textContent = text; }, 50); };

// Tables

function prepare(grid) {
  const heads = $(grid, "thead th"), body = grid.querySelector("tbody");
  const rows = () => [...body.rows];
  heads.forEach((head, column) => {
    head.querySelector("button").onclick = () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      body.append(...rows().sort((a, b) => compare(a.cells[column], b.cells[column], sign)));
      say(`Sorted by ${head.dataset.name}, ${order}`);
    };
  });
  const filter = grid.querySelector("input[type=search]"), count = grid.querySelector(".count");
  const chosen = $(grid, "select");
  const narrow = () => {
    const wanted = filter.value.toLowerCase().split(/\s+/);
    const fits = ({ cells }) => chosen.every(({ value, dataset }) => {
      const cell = words(cells[dataset.column]);
      return !value || cell === value || cell.split(", ").includes(value);
    });
    for (const row of rows()) row.hidden = !(fits(row) && wanted.every((word) => words(row).toLowerCase().includes(word)));
    const left = rows().filter((row) => !row.hidden).length;
    count.textContent = left === rows().length ? `${left} rows` : `${left} of ${rows().length} rows`;
    say(count.textContent);
  };
  for (const input of [filter, ...chosen]) input.oninput = narrow;
  for (const box of $(grid, "[data-source]")) box.onchange = () => {
    for (const cell of $(grid, `th.${box.dataset.source}, td.${box.dataset.source}`)) cell.hidden = !box.checked;
  };
  for (const button of $(grid, "[data-copy]")) button.onclick = () => {
    const write = button.dataset.copy === "latex" ? latex : markdown;
    const shown = rows().filter((row) => !row.hidden).map((row) => [...row.cells].filter((cell) => !cell.hidden).map(words));
    const columns = heads.filter((head) => !head.hidden);
    const numeric = columns.map((head) => head.classList.contains("num"));
    copy(write(grid.dataset.title, [columns.map((head) => head.dataset.name), ...shown], numeric), button.textContent);
  };
}

function compare(a, b, sign) {  // what has no figure stands last either way
  const [x, y] = [a, b].map((cell) => Number(cell.dataset.v ?? NaN));
  if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
  if (!Number.isNaN(x) || !Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  const [s, t] = [words(a), words(b)];
  return !s - !t || sign * s.localeCompare(t, "en", { numeric: true });
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
    await navigator.clipboard.writeText(text);
    say(`${what}: copied`);
  } catch {  // over plain http a page has no clipboard
    const dialog = document.querySelector("dialog"), area = dialog.querySelector("textarea");
    area.value = text;
    dialog.showModal();
    area.select();
  }
}

// Figures

const tip = document.getElementById("tip");
let pointedAt = null;  // the mark that the tip tells of

function placeTip() {
  if (!pointedAt) return;
  const box = tip.getBoundingClientRect(), at = pointedAt.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(at.right + 8, innerWidth - box.width - 8))}px`;
  tip.style.top = `${at.top > box.height + 12 ? at.top - box.height - 8 : at.bottom + 8}px`;
}

for (const mark of $(document, ".told")) {  // one series is set off together
  const { series } = mark.dataset;
  const point = (on) => {
    tip.hidden = !on;
    tip.textContent = mark.getAttribute("aria-label");
    pointedAt = on ? mark : null;
    placeTip();
    if (series) for (const each of $(mark.closest(".panel"), ".told")) each.classList.toggle("faded", on && each.dataset.series !== series);
  };
  mark.onpointerenter = mark.onfocus = () => point(true);
  mark.onpointerleave = mark.onblur = () => point(false);
}

$(document, ".grid").forEach(prepare);
addEventListener("scroll", placeTip, { passive: true });  // focus scrolls to its mark
document.documentElement.dataset.ready = "";
})();
