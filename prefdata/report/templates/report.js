"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const page = JSON.parse(byId("data").textContent);
  const phone = matchMedia("(max-width: 52rem)");

  // All text goes into the page by textContent: nothing of a run is ever read as HTML.
  function make(tag, options = {}, ...children) {
    const { text, ...attributes } = options;
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    element.append(...children);
    return element;
  }

  const round = (value) =>
    value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toLocaleString("en");

  // ---- theme

  const themes = ["auto", "light", "dark"];

  function setTheme(theme) {
    root.dataset.theme = theme;
    byId("theme").textContent = `Theme: ${theme}`;
    drawCharts();
  }

  function storedTheme() {
    try {
      const theme = localStorage.getItem("prefdata-theme");
      return themes.includes(theme) ? theme : "auto";
    } catch {
      return "auto"; // a browser that keeps nothing for files
    }
  }

  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    try {
      localStorage.setItem("prefdata-theme", next);
    } catch {
      // the choice then holds for this visit
    }
    setTheme(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts());

  // ---- charts

  let drawn = [];

  function colours() {
    const probe = document.body.appendChild(make("i"));
    const read = (name) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    };
    const found = {
      text: read("--text"), faint: read("--faint"), line: read("--line"), page: read("--page"),
      series: [0, 1, 2, 3, 4, 5].map((n) => read(`--s${n}`)),
    };
    probe.remove();
    return found;
  }

  const pale = (colour, share) =>
    colour.replace(/^rgba?\(([^)]*)\)$/, (_, parts) => `rgba(${parts.split(",").slice(0, 3).join(",")}, ${share})`);

  const cut = (label, most) => (label.length > most ? `${label.slice(0, most - 1)}…` : label);

  function marks(chart, colour) {
    return {
      id: "marks",
      beforeDatasetsDraw({ ctx, chartArea, scales }) {
        ctx.save();
        ctx.font = "11px system-ui, sans-serif";
        chart.bands.forEach(([from, to, name], n) => {
          const [left, right] = [from, to].map((at) => Math.min(Math.max(scales.x.getPixelForValue(at), chartArea.left), chartArea.right));
          ctx.fillStyle = pale(colour.series[1], 0.14);
          ctx.fillRect(left, chartArea.top, Math.max(right - left, 2), chartArea.bottom - chartArea.top);
          ctx.fillStyle = colour.text;
          const wide = ctx.measureText(name).width;
          ctx.fillText(name, Math.min(left + 4, chartArea.right - wide), chartArea.top + 14 * (n % 3 + 1));
        });
        ctx.restore();
      },
      afterDatasetsDraw({ ctx, chartArea, scales }) {
        ctx.save();
        ctx.font = "11px system-ui, sans-serif";
        const places = chart.marks.map(([at]) => scales.x.getPixelForValue(at));
        chart.marks.forEach(([, name], n) => {
          const x = places[n];
          ctx.strokeStyle = ctx.fillStyle = colour.text;
          ctx.setLineDash([3, 3]);
          ctx.beginPath();
          ctx.moveTo(x, chartArea.top);
          ctx.lineTo(x, chartArea.bottom);
          ctx.stroke();
          const room = (places[n + 1] ?? chartArea.right + 8) - x;
          if (ctx.measureText(name).width + 6 < room) ctx.fillText(name, x, chartArea.top - 5);
        });
        ctx.restore();
      },
    };
  }

  // The highest value of a chart; the charts of two runs get one scale.
  function highest(chart) {
    const values = chart.series.map(([, series]) => series);
    if (chart.kind === "bars") return Math.max(...chart.labels.map((_, n) => values.reduce((sum, series) => sum + series[n], 0)));
    return Math.max(...values.flat());
  }

  function settings(chart, colour, most) {
    const lies = chart.kind === "bars";
    const isBars = lies || chart.kind === "columns";
    const axis = (title, more) => ({
      title: { display: Boolean(title), text: title, color: colour.faint },
      ticks: { color: colour.faint, ...more.ticks },
      grid: { color: colour.line, display: more.grid ?? true },
      border: { color: colour.line },
      ...more.scale,
    });
    const numbers = { ticks: { maxTicksLimit: 7 }, scale: { beginAtZero: true, stacked: lies, suggestedMax: most } };
    if (chart.is_percent) numbers.scale.max = 100;
    const letters = phone.matches ? 16 : 32;
    const names = {
      grid: false, scale: { stacked: lies },
      ticks: { autoSkip: !lies, callback(value) { return cut(String(this.getLabelForValue(value)), letters); } },
    };
    const points = {
      grid: false,
      ticks: { maxTicksLimit: 9 },
      scale: chart.lasts === null
        ? { type: "linear", min: chart.labels[0], max: chart.labels.at(-1) }
        : { type: "linear", min: 0, max: chart.lasts },
    };
    const at = (values) => {
      const points = values.map((y, n) => ({ x: chart.labels[n], y }));
      return chart.kind === "steps" ? [...points, { x: chart.labels.at(-1), y: values.at(-1) }] : points;
    };
    const title = ([first]) => {
      if (!first) return "";
      if (isBars) return String(chart.labels[first.dataIndex]);
      const [from, to] = [chart.labels[first.dataIndex], chart.labels[first.dataIndex + 1]];
      return chart.kind === "steps" && to !== undefined ? `${chart.x} ${round(from)} to ${round(to)}` : `${chart.x} ${round(from)}`;
    };
    const datasets = chart.series.map(([name, values], n) => {
      const label = cut(name, 2 * letters);
      const own = colour.series[n % 6];
      return isBars
        ? { label, data: values, backgroundColor: own, maxBarThickness: lies ? 26 : 56, categoryPercentage: lies ? 0.8 : chart.labels.length < 5 ? 0.3 : 0.7 }
        : {
            label, data: at(values), borderColor: own,
            backgroundColor: pale(own, 0.15), fill: "origin", borderWidth: 2, pointRadius: 0, pointHitRadius: 8,
            stepped: chart.kind === "steps", borderDash: n >= 6 ? [5, 4] : [],
          };
    });
    return {
      type: isBars ? "bar" : "line",
      data: isBars ? { labels: chart.labels, datasets } : { datasets },
      plugins: [marks(chart, colour)],
      options: {
        animation: false, responsive: true, maintainAspectRatio: false, indexAxis: lies ? "y" : "x",
        layout: { padding: { top: chart.marks.length ? 16 : 0, right: 8 } },
        interaction: { mode: isBars ? "index" : "x", axis: lies ? "y" : "x", intersect: false },
        scales: {
          x: lies ? axis(chart.x, numbers) : axis(chart.x, isBars ? names : points),
          y: lies ? axis(chart.y, names) : axis(chart.y, numbers),
        },
        plugins: {
          legend: { display: chart.series.length > 1, position: "top", align: "start", labels: { color: colour.text, boxWidth: 14 } },
          tooltip: { callbacks: { title } },
        },
      },
    };
  }

  // Axes and a legend of several lines leave too little room for the plot itself, or too much. A
  // legend gets at most half of the chart, so the plot is as high as a long legend; as more room
  // makes the legend longer, it takes some rounds.
  function fit(made, chart) {
    const lies = chart.kind === "bars";
    const legend = phone.matches && chart.series.length > 4 ? chart.series.length * 24 : 0;
    const wanted = Math.max(lies ? chart.labels.length * 32 : 150, legend);
    for (let round = 0; round < 4; round++) {
      const lack = wanted - (made.chartArea.bottom - made.chartArea.top);
      if (Math.abs(lack) < 2 || (lack < 0 && !lies)) break;
      made.canvas.parentElement.style.height = `${made.height + lack}px`;
      made.resize();
    }
    return made;
  }

  function drawCharts() {
    drawn.forEach((chart) => chart.destroy());
    const colour = colours();
    drawn = [...document.querySelectorAll("canvas[data-chart]")].map((canvas) => {
      const chart = page.charts[canvas.dataset.panel][canvas.dataset.run].at(canvas.dataset.chart);
      const peers = page.charts[canvas.dataset.panel].flat().filter((one) => one.title === chart.title);
      const most = peers.length > 1 ? Math.max(...peers.map(highest)) : undefined;
      return fit(new Chart(canvas, settings(chart, colour, most)), chart);
    });
  }

  // ---- rows: arrays as they came; `column` says where a value lies

  const runs = page.runs.map((run) => ({
    name: run.name,
    pairs: table(run.pairs.fields),
    rejects: table(run.rejects.fields),
    scores: run.scores,
    candidates: new Map(),
  }));

  function table(fields) {
    const at = new Map(fields.map((name, n) => [name, n]));
    return { rows: [], fields, get: (row, name) => (at.has(name) ? row[at.get(name)] : null) };
  }

  async function load() {
    for (const part of document.querySelectorAll("script.part")) {
      const run = runs[part.dataset.run];
      const isPart = part.dataset.kind === "candidates";
      for (const row of JSON.parse(part.textContent)) {
        if (isPart) run.candidates.set(row[0], row[1]);
        else run[part.dataset.kind].rows.push(row);
      }
      part.remove(); // what is parsed need not be held twice
      await pause();
    }
  }

  const pause = () => new Promise((go) => setTimeout(go));

  function asText(value) {
    return typeof value === "string" ? value : JSON.stringify(value, null, 1);
  }

  function turns(prompt) {
    if (!Array.isArray(prompt)) return [["prompt", asText(prompt)]];
    return prompt.map((message) => {
      if (message === null || typeof message !== "object") return ["prompt", asText(message)];
      const { role, content, ...rest } = message;
      const more = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null));
      const parts = [content === null || content === undefined ? "" : asText(content)];
      if (Object.keys(more).length) parts.push(asText(more));
      return [role ?? "prompt", parts.filter(Boolean).join("\n")];
    });
  }

  const oneLine = (text) => text.slice(0, 200).replace(/\s+/g, " ");
  const lastTurn = (prompt) => turns(prompt).at(-1)?.[1] ?? "";

  const UNKNOWN = "unknown";

  function writer(pairs, row, side) {
    const name = pairs.get(row, `${side}_alias`) ?? pairs.get(row, `${side}_model`) ?? UNKNOWN;
    const heat = pairs.get(row, `${side}_temperature`);
    return heat === null ? name : `${name}, ${heat}`;
  }

  // ---- filters

  const form = byId("filters");
  const field = (name) => form.elements[name]?.value ?? "";
  let found = [];
  let open = -1;
  let turn = 0;

  const current = () => {
    const run = runs[Number(field("run") || 0)];
    const kind = field("kind");
    return { run, kind, rows: run[kind] };
  };

  function fill(select, names) {
    const before = select.value;
    const options = names.map(([value, text]) => make("option", { value, text }));
    select.replaceChildren(make("option", { value: "", text: "any" }), ...options);
    select.value = names.some(([value]) => value === before) ? before : "";
  }

  const counted = (values) => {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]);
  };

  function offer() {
    const { run, kind } = current();
    for (const part of form.querySelectorAll("[data-of]")) part.hidden = part.dataset.of !== kind;
    const { pairs, rejects } = run;
    const writers = pairs.rows.flatMap((row) => [...new Set([writer(pairs, row, "chosen"), writer(pairs, row, "rejected")])]);
    fill(form.elements.writer, counted(writers).map(([name, n]) => [name, `${name} (${n.toLocaleString("en")})`]));
    const reasons = rejects.rows.map((row) => `${rejects.get(row, "stage")}: ${rejects.get(row, "reason")}`);
    fill(form.elements.reason, counted(reasons).map(([name, n]) => [name, `${name} (${n.toLocaleString("en")})`]));
    list.setAttribute("aria-label", kind === "pairs" ? "Pairs" : "Rejects");
  }

  const lowered = new WeakMap(); // kept for the next search; the page bounds how much there is

  function inSmall({ kind, rows }, row) {
    let text = lowered.get(row);
    if (text !== undefined) return text;
    const get = (name) => rows.get(row, name);
    const parts = kind === "pairs"
      ? [...turns(get("prompt")).map(([, said]) => said), get("chosen"), get("rejected")]
      : [get("stage"), get("reason"), get("detail"), get("source"), asText(get("row"))];
    text = parts.filter(Boolean).join("\n").toLowerCase();
    lowered.set(row, text);
    return text;
  }

  function tests(view) {
    const { kind, rows } = view;
    const made = [];
    if (kind === "pairs") {
      const [low, high] = [field("low"), field("high")].map((text) => (text === "" ? null : Number(text)));
      const side = field("side") ? [field("side")] : ["chosen", "rejected"];
      const [name, split] = [field("writer"), field("split")];
      if (split) made.push((row) => rows.get(row, "_split") === split);
      if (low !== null || high !== null) {
        made.push((row) => {
          const margin = rows.get(row, "margin");
          return margin !== null && (low === null || margin >= low) && (high === null || margin <= high);
        });
      }
      if (name) made.push((row) => side.some((one) => writer(rows, row, one) === name));
    } else if (field("reason")) {
      made.push((row) => `${rows.get(row, "stage")}: ${rows.get(row, "reason")}` === field("reason"));
    }
    const words = field("text").toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) {
      made.push((row) => {
        const text = inSmall(view, row);
        const ids = [rows.get(row, "id"), rows.get(row, "row_id")]; // whole: they are letters and digits at random
        return words.every((word) => text.includes(word) || ids.includes(word));
      });
    }
    return made;
  }

  const orders = {
    margin: (rows) => (row) => rows.get(row, "margin") ?? Infinity,
    "-margin": (rows) => (row) => -(rows.get(row, "margin") ?? -Infinity),
    "-length": (rows) => (row) => rows.get(row, "rejected").length - rows.get(row, "chosen").length,
  };

  // Rows are looked through for some milliseconds at a time, and no further once a new search begins.
  async function filter() {
    const mine = ++turn;
    const view = current();
    const { kind, rows } = view;
    const all = tests(view);
    let kept = [];
    let until = performance.now() + 12;
    for (let n = 0; n < rows.rows.length; n++) {
      if (all.every((test) => test(rows.rows[n]))) kept.push(rows.rows[n]);
      if (performance.now() > until) {
        await pause();
        if (mine !== turn) return;
        until = performance.now() + 12;
      }
    }
    const order = kind === "pairs" && orders[field("order")];
    if (order) {
      const key = order(rows);
      kept = kept.map((row) => [key(row), row]).sort((a, b) => a[0] - b[0]).map(([, row]) => row);
    }
    found = kept;
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${rows.rows.length.toLocaleString("en")} ${kind}`;
    list.scrollTop = 0;
    show(found.length ? 0 : -1);
    root.dataset.filtered = String(mine);
  }

  // ---- the list: only the rows in sight are elements

  const HEIGHT = 60;
  const list = byId("list");
  const windowElement = byId("window");

  function paint() {
    const view = current();
    windowElement.style.height = `${Math.max(found.length, 1) * HEIGHT}px`;
    if (!found.length) {
      windowElement.replaceChildren(make("p", { class: "none", text: `No ${view.kind} here.` }));
      list.removeAttribute("aria-activedescendant");
      return;
    }
    const first = Math.max(Math.floor(list.scrollTop / HEIGHT) - 5, 0);
    const last = Math.min(first + Math.ceil(list.clientHeight / HEIGHT) + 10, found.length);
    const seen = Array.from({ length: last - first }, (_, n) => option(view, first + n));
    windowElement.replaceChildren(...seen);
    if (open >= first && open < last) list.setAttribute("aria-activedescendant", `row-${open}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function option({ kind, rows }, n) {
    const row = found[n];
    const get = (name) => rows.get(row, name);
    const told = kind === "pairs"
      ? [lastTurn(get("prompt")), pairLine(rows, row)]
      : [rejectTitle(rows, row), `${get("stage")}: ${get("reason")}`];
    const element = make(
      "div",
      { role: "option", id: `row-${n}`, class: "row", "aria-selected": String(n === open), "aria-setsize": found.length, "aria-posinset": n + 1 },
      make("b", { text: oneLine(told[0]), dir: "auto" }),
      make("span", { text: told[1] }),
    );
    element.style.transform = `translateY(${n * HEIGHT}px)`;
    element.addEventListener("click", () => { show(n); if (phone.matches) enter(); });
    return element;
  }

  function pairLine(rows, row) {
    const [chosen, rejected] = [writer(rows, row, "chosen"), writer(rows, row, "rejected")];
    const margin = rows.get(row, "margin");
    return [
      margin === null ? "" : `margin ${round(margin)}`,
      chosen === UNKNOWN && rejected === UNKNOWN ? "" : `${chosen} over ${rejected}`,
      rows.get(row, "_split"),
    ].filter(Boolean).join(" · ");
  }

  function rejectTitle(rows, row) {
    const kept = rows.get(row, "row");
    const prompt = kept && typeof kept === "object" ? kept.prompt ?? kept.question ?? kept.raw : kept;
    return prompt ? lastTurn(prompt) : rows.get(row, "source") ?? rows.get(row, "id") ?? "";
  }

  function show(n) {
    open = n;
    if (n >= 0) {
      const top = n * HEIGHT;
      if (top < list.scrollTop) list.scrollTop = top;
      if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
    }
    paint();
    detail();
  }

  const enter = () => byId("open-title")?.focus();

  list.addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
  list.addEventListener("keydown", (event) => {
    const jump = Math.max(Math.floor(list.clientHeight / HEIGHT) - 1, 1);
    const to = { ArrowDown: open + 1, ArrowUp: open - 1, PageDown: open + jump, PageUp: open - jump, Home: 0, End: found.length - 1 }[event.key];
    if (event.key === "Enter") enter();
    else if (to === undefined) return;
    else if (found.length) show(Math.min(Math.max(to, 0), found.length - 1));
    event.preventDefault();
  });

  // ---- the row that is open

  let isDiff = true;

  function facts(entries) {
    const known = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
    return make("dl", { class: "facts" }, ...known.flatMap(([name, value]) => [
      make("dt", { text: name }),
      make("dd", { text: typeof value === "number" ? round(value) : asText(value), dir: "auto" }),
    ]));
  }

  // What is known of both sides, side by side.
  function compared(rows, row) {
    const values = { chosen: [], rejected: [] };
    for (const side of Object.keys(values)) {
      for (const name of rows.fields.filter((one) => one.startsWith(`${side}_`))) {
        const value = rows.get(row, name);
        const stem = name.slice(side.length + 1);
        if (value !== null && typeof value === "object") values[side].push(...Object.entries(value));
        else values[side].push([stem, value]);
      }
    }
    const [left, right] = Object.values(values).map((pairs) => new Map(pairs));
    const told = (value) => (typeof value === "number" ? round(value) : value ?? "–");
    const lines = [...new Set([...left.keys(), ...right.keys()])]
      .filter((name) => (left.get(name) ?? right.get(name) ?? null) !== null)
      .map((name) => make("tr", {}, make("th", { scope: "row", text: name.replaceAll("_", " ") }),
        make("td", { dir: "auto", text: told(left.get(name)) }), make("td", { dir: "auto", text: told(right.get(name)) })));
    const heads = ["", "chosen", "rejected"].map((text) => make(text ? "th" : "td", text ? { scope: "col", text } : {}));
    return make("div", { class: "scroll facts", tabindex: "0", role: "region", "aria-label": "What is known of both sides" },
      make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...lines)));
  }

  function body(...children) {
    return make("div", { class: "body", dir: "auto", tabindex: "0", role: "group" }, ...children);
  }

  // Both texts in parts, with the words that only one has marked; null where the texts differ too
  // much to tell in time.
  function marked({ chosen, rejected }) {
    const changes = Diff.diffWordsWithSpace(rejected, chosen, { timeout: 400 });
    if (!changes) return null;
    const side = (other, mine, tag) =>
      changes.filter((part) => !part[other]).map((part) => (part[mine] ? make(tag, { text: part.value }) : part.value));
    return { chosen: side("removed", "added", "ins"), rejected: side("added", "removed", "del") };
  }

  function sides(rows, row) {
    const texts = { chosen: rows.get(row, "chosen"), rejected: rows.get(row, "rejected") };
    const parts = isDiff ? marked(texts) : null;
    const made = Object.entries(texts).map(([side, text]) => {
      const score = rows.get(row, `${side}_score`);
      const tokens = rows.get(row, `${side}_completion_tokens`);
      const said = [writer(rows, row, side)];
      if (score !== null) said.push(`score ${round(score)}`);
      said.push(tokens === null ? `${text.length.toLocaleString("en")} characters` : `${tokens.toLocaleString("en")} tokens`);
      const shown = body(...(parts ? parts[side] : [text]));
      shown.setAttribute("aria-label", `${side} text`);
      return make("div", { class: side },
        make("h4", { text: side === "chosen" ? "Chosen" : "Rejected" }), shown,
        make("p", { class: "small", text: said.join(" · ") }));
    });
    const note = isDiff && !parts ? [make("p", { class: "small", text: "The texts differ too much to mark the words." })] : [];
    return make("div", {}, make("div", { class: "sides" }, ...made), ...note);
  }

  const SHOWN = new Set(["id", "prompt", "chosen", "rejected", "_split", "row"]);

  function detail() {
    const { run, kind, rows } = current();
    const place = byId("detail");
    const row = found[open];
    if (!row) return place.replaceChildren();
    const get = (name) => rows.get(row, name);
    const title = `${kind === "pairs" ? "Pair" : "Reject"} ${(open + 1).toLocaleString("en")} of ${found.length.toLocaleString("en")}`;
    const button = (text, act, more = {}) => {
      const made = make("button", { type: "button", text, ...more });
      made.addEventListener("click", act);
      return made;
    };
    const step = (by, id) => () => { show(Math.min(Math.max(open + by, 0), found.length - 1)); byId(id)?.focus(); };
    const tools = make("div", { class: "tools" },
      button("Previous", step(-1, "previous"), { id: "previous" }),
      button("Next", step(1, "next"), { id: "next" }));
    if (kind === "pairs") {
      tools.append(button("Mark differences", () => { isDiff = !isDiff; detail(); byId("diff").focus(); }, { id: "diff", "aria-pressed": String(isDiff) }));
    }
    tools.append(button("Back to the list", () => list.focus(), { id: "back" }));
    const parts = [make("h3", { id: "open-title", tabindex: "-1", text: title }), tools];
    if (kind === "pairs") {
      parts.push(...turns(get("prompt")).map(([role, text]) => make("div", { class: "turn" }, make("p", { text: role }), body(text))));
      parts.push(sides(rows, row));
      parts.push(...others(run, get("row_id")), ...candidates(run, get));
      const rest = rows.fields.filter((name) => !SHOWN.has(name) && !/^(chosen|rejected)_/.test(name));
      parts.push(compared(rows, row), facts([["id", get("id")], ["split", get("_split")], ...rest.map((name) => [name.replaceAll("_", " "), get(name)])]));
    } else {
      parts.push(facts([["reason", `${get("stage")}: ${get("reason")}`], ["detail", get("detail")], ["source", get("source")], ["id", get("id")]]));
      const held = get("row");
      if (held !== null && typeof held === "object") parts.push(facts(Object.entries(held)));
      else if (held !== null) parts.push(body(asText(held)));
    }
    place.replaceChildren(...parts);
  }

  // All candidates of the prompt, the best first, with their scores.
  function candidates(run, get) {
    const all = run.candidates.get(get("row_id"));
    if (!all || all.length < 3) return [];
    const best = [...all].sort((a, b) => (b[4][0] ?? -Infinity) - (a[4][0] ?? -Infinity));
    const made = best.map(([name, heat, ended, text, scores]) => {
      const said = [heat === null ? name ?? UNKNOWN : `${name ?? UNKNOWN}, ${heat}`, ...run.scores.map((score, n) => `${score} ${round(scores[n])}`)];
      if (ended !== null && ended !== "stop") said.push(ended);
      for (const side of ["chosen", "rejected"]) if (get(side) === text) said.push(side);
      return make("div", { class: "candidate" }, make("p", { class: "small", text: said.join(" · ") }), body(text ?? ""));
    });
    return [make("details", { class: "all" }, make("summary", { text: `All ${all.length.toLocaleString("en")} candidates of this prompt` }), ...made)];
  }

  // What the other run has made of the same row.
  function others(run, id) {
    return runs.filter((one) => one !== run).map((one) => {
      const { pairs, rejects } = one;
      const same = pairs.rows.filter((row) => pairs.get(row, "row_id") === id);
      const lost = rejects.rows.filter((row) => rejects.get(row, "id") === id);
      const told = [
        ...same.map((row) => sides(pairs, row)),
        ...lost.map((row) => make("p", { text: `It is a reject there: ${rejects.get(row, "stage")}: ${rejects.get(row, "reason")}` })),
      ];
      if (!told.length) told.push(make("p", { text: "The page has no pair and no reject of this row there." }));
      return make("details", { class: "other", open: "" }, make("summary", { text: `The same row in ${one.name}` }), ...told);
    });
  }

  // ---- from the tables above to a row

  function openRow(run, id) {
    form.reset();
    if (form.elements.run) form.elements.run.value = run;
    const { pairs } = runs[run];
    const hasPair = pairs.rows.some((row) => pairs.get(row, "row_id") === id);
    form.querySelector(`input[value="${hasPair ? "pairs" : "rejects"}"]`).checked = true;
    form.elements.text.value = id;
    offer();
    filter();
    byId("browser").scrollIntoView();
    list.focus({ preventScroll: true });
  }

  // ---- begin

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target.name === "kind" || event.target.name === "run") offer();
    filter();
  });
  form.addEventListener("reset", () => setTimeout(() => { offer(); filter(); }));
  for (const button of document.querySelectorAll("button.id")) {
    button.addEventListener("click", () => openRow(Number(button.dataset.run), button.dataset.row));
  }
  setTheme(storedTheme());
  load().then(() => {
    form.hidden = false;
    document.querySelector(".browser").hidden = false;
    offer();
    return filter();
  }).then(() => { root.dataset.ready = "yes"; });
})();
