"use strict";
(() => {
const { groups, figures } = JSON.parse(document.getElementById("data").textContent);
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

const FONT = getComputedStyle(document.documentElement).getPropertyValue("--sans").trim();
function config(width) {
  const narrow = width < 520, label = narrow ? 11 : 12;
  const text = { labelFont: FONT, titleFont: FONT, labelFontSize: label, titleFontSize: label, labelColor: "var(--muted)", titleColor: "var(--ink)", titleFontWeight: 600 };
  return {
    background: null, font: FONT, view: { stroke: null },
    axis: { ...text, gridColor: "var(--line)", domainColor: "var(--strong)", tickColor: "var(--strong)", titlePadding: 10, labelPadding: 5, labelOverlap: true },
    axisY: { labelLimit: narrow ? 150 : 300, ...(narrow ? { titleAngle: -90 } : {}) },
    axisX: { tickCount: narrow ? 4 : 8 },
    legend: { ...text, orient: "top", direction: "horizontal", columns: Math.max(2, Math.floor(width / 190)), labelLimit: 240, symbolSize: 90, symbolOpacity: 1, symbolBaseFillColor: "var(--muted)", symbolBaseStrokeColor: "var(--muted)", padding: 0, offset: 14, rowPadding: 5, columnPadding: 18, titleOrient: "left" },
  };
}

const tip = element("div", "", { id: "tip" });
tip.hidden = true;
document.body.append(tip);
function hint(_, event, __, value) {
  tip.hidden = !value;
  if (!value) return;
  const list = element("dl");
  for (const [key, text] of Object.entries(value)) {
    if (!["", "null", "undefined", "NaN"].includes(String(text))) list.append(element("dt", key), element("dd", String(text)));
  }
  tip.replaceChildren(list);
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${Math.max(4, event.clientY - box.height - 12)}px`;
}

const chosen = (panel) => Object.fromEntries($(panel, "[data-choice]").map((s) => [s.dataset.choice, s.value]));

function rowsOf(panel) {
  const figure = figures[panel.id], data = groups[figure.group], choices = chosen(panel);
  const variant = figure.variants[Number(panel.querySelector("[data-variant]")?.value ?? 0)];
  const rows = data[variant.rows || figure.rows];
  if (figure.rows === "raw") return { variant, rows: samplesOf(rows, choices, variant.kind) };
  const fits = (row) => Object.entries(choices).every(([key, value]) => row[key] === undefined || String(row[key]) === value);
  return { variant, rows: rows.filter(fits) };
}

function samplesOf(raw, choices, kind) {
  const found = Object.values(raw).find((each) => each.name === choices.case);
  return found.rounds.flatMap((round) => {
    const k = /^scale (\d+)$/.exec(kind);
    const values = round[kind] ?? (k && round.scales[Number(k[1]) - 1]) ?? [];
    return values.map((seconds, i) => ({ side: round.side, round: round.round, sample: i * (round.every ?? 1) + 1, seconds }));
  });
}

const drawn = new Map();
async function draw(panel) {
  const chart = panel.querySelector(".chart"), { variant, rows } = rowsOf(panel);
  const label = panel.querySelector("[data-variant]") ? [variant.label] : [];
  const picked = [...label, ...$(panel, "[data-choice]").map((s) => `${words(s.parentElement.firstChild)} ${s.value}`)];
  const shown = picked.length ? `: ${picked.join(", ")}` : "";
  panel.querySelector(".shown").textContent = shown;
  drawn.get(panel)?.finalize();
  drawn.delete(panel);
  if (new Set(rows.map((row) => row.name)).size < figures[panel.id].least) {
    chart.replaceChildren(element("p", "Too little was measured of this choice for a figure."));
  } else {
    const spec = { ...structuredClone(variant.spec), data: { name: "rows", values: rows } };
    if (spec.height.step) spec.height = spec.height.step * new Set(rows.map((row) => row.name)).size;
    const legend = spec.encoding?.color?.legend;
    if (legend?.columns) legend.columns = Math.min(legend.columns, Math.floor((chart.clientWidth - 150) / 44));
    spec.autosize = { type: "fit-x", contains: "padding" };
    spec.description = `${panel.querySelector("figcaption b").textContent}${shown}. The numbers stand in a table below.`;
    spec.config = config(chart.clientWidth);
    // "ast": expressions are interpreted, as the page's policy forbids eval
    const options = { mode: "vega-lite", ast: true, renderer: "svg", actions: false, logLevel: 1 /* errors */, defaultStyle: false, tooltip: hint, loader: { load: () => Promise.reject(new Error("no requests")) } };
    drawn.set(panel, await vegaEmbed(chart, spec, options));
  }
  list(panel, rows);
}

function list(panel, rows) {  // the figure's rows as a table, once somebody opens it
  const details = panel.querySelector(".numbers");
  const fill = () => {
    if (!details.open) return;
    details.querySelector(".grid")?.remove();
    const grid = document.getElementById("grid").content.firstElementChild.cloneNode(true);
    const columns = figures[panel.id].headings.filter(([key]) => rows.some((row) => row[key] !== undefined && row[key] !== null));
    const head = grid.querySelector("thead tr"), body = grid.querySelector("tbody");
    const numeric = (key) => rows.every((row) => row[key] === undefined || row[key] === null || typeof row[key] === "number");
    columns.forEach(([key, heading], i) => {
      const th = element("th", "", { scope: "col", "aria-sort": "none", "data-col": i, "data-group": "", class: numeric(key) ? "num" : "" });
      th.append(element("button", heading, { type: "button" }));
      head.append(th);
    });
    for (const row of rows) {
      const line = element("tr");
      for (const [key] of columns) {
        const cell = element("td", String(row[key] ?? ""), numeric(key) ? { class: "num" } : {});
        if (typeof row[key] === "number") cell.dataset.v = row[key];
        line.append(cell);
      }
      body.append(line);
    }
    grid.querySelector(".count").textContent = `${rows.length} rows`;
    prepare(grid);
    details.append(grid);
  };
  details.ontoggle = fill;
  fill();
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
const panels = $(document, "[data-figure]");
for (const panel of panels) for (const select of $(panel, "select")) select.onchange = () => draw(panel);
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

// Those in sight first; the rest are ready before they are looked at or printed.
(async () => {
  for (const panel of [...panels].sort((a, b) => b.classList.contains("on") - a.classList.contains("on"))) {
    await draw(panel);
    await new Promise((done) => setTimeout(done));
  }
  document.documentElement.dataset.ready = "";
})();
})();
