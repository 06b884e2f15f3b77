(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

  // What is lit together: elements by the number of their op (o), value (v), line (l) and launch (k).
  const index = { o: new Map(), v: new Map(), l: new Map(), k: new Map() };
  const numbers = (element, kind) => (element.dataset[kind] || "").split(" ").filter(Boolean);
  for (const kind of Object.keys(index))
    for (const element of all(`[data-${kind}]`))
      for (const number of numbers(element, kind)) {
        if (!index[kind].has(number)) index[kind].set(number, []);
        index[kind].get(number).push(element);
      }

  // The sizes of Dims, what they are in words, and the figures worked out for them.
  let sizes = data.dims.map(() => BigInt(data.nominal));
  let said = `${data.nominal}`;
  const worked = new Map();
  function figure(number) {
    if (!worked.has(number)) worked.set(number, formulas.value(data.formulas[number], sizes));
    return worked.get(number);
  }

  let lit = [];
  let held = null;
  const status = byId("status");
  const welcome = status.textContent;

  function found(element, kinds) {
    const elements = new Set();
    for (const kind of kinds) for (const number of numbers(element, kind)) for (const other of index[kind].get(number) || []) elements.add(other);
    return elements;
  }

  function light(element) {
    for (const [other, name] of lit) other.classList.remove(name);
    lit = [];
    if (!element) { status.textContent = welcome; return; }
    const exact = found(element, ["v", "l"]);
    const near = element.dataset.own ? found(element, ["k"]) : found(element, ["o"]);
    for (const other of near) if (!exact.has(other)) lit.push([other, "lit"]);
    for (const other of exact) lit.push([other, "hot"]);
    if (!exact.has(element)) lit.push([element, "hot"]);
    for (const [other, name] of lit) other.classList.add(name);
    const said = element.dataset.t || (element.dataset.l ? lineTitle(element.dataset.l) : "");
    status.textContent = said || welcome;
  }

  function lineTitle(number) {
    const line = (index.l.get(number) || []).find((other) => other.classList.contains("line"));
    return line ? `line ${number}: ${line.dataset.t || line.textContent.trim()}` : "";
  }

  function show(element) {
    // In every other pane, bring what is lit into view.
    const own = element.closest(".pane");
    for (const pane of all(".pane")) {
      if (pane === own) continue;
      const here = lit.filter(([other]) => pane.contains(other) && !other.closest("[hidden]"));
      const best = here.find(([other, name]) => name === "hot" && other.matches(".step, .blk, .node, .thing")) || here.find(([other]) => other.matches(".item"));
      if (!best) continue;
      const folded = best[0].closest("details");
      if (folded) folded.open = true;
      const body = best[0].closest(".body");
      if (!body) continue;
      const from = body.getBoundingClientRect(), to = best[0].getBoundingClientRect();
      body.scrollTop += to.top - from.top - from.height / 3;
      if (to.left < from.left || to.right > from.right) body.scrollLeft += to.left - from.left - from.width / 3;
    }
  }

  function hold(element) {
    held = held === element ? null : element;
    light(element);
    if (held) show(element);
    if (element.dataset.e !== undefined) explain(Number(element.dataset.e));
  }

  document.addEventListener("pointerover", (event) => {
    const element = event.target.closest && event.target.closest(".item");
    if (!held) light(element);
  });
  document.addEventListener("click", (event) => {
    const element = event.target.closest(".item");
    if (element) hold(element);
    else if (event.target.closest(".body")) { held = null; light(null); }
  });

  // -- an edge: reason, bytes, and the opposite --
  const row = (parent, tag, texts) => {
    const line = document.createElement("tr");
    for (const text of texts) { const cell = document.createElement(tag); cell.textContent = text; line.append(cell); }
    parent.append(line);
  };
  const signed = (number) => (number < 0 ? "" : "+") + number.toLocaleString("en");
  const told = (number) => (number < 0n ? "" : "+") + number.toLocaleString("en");
  function cost(opposite) {
    if (!opposite) return "not looked for: the edge moves little";
    if (opposite.impossible) return `not possible: ${opposite.impossible}`;
    const bytes = figure(opposite.bytes), some = Math.abs(opposite.launches) === 1 ? "launch" : "launches";
    const nothing = opposite.launches || bytes ? "" : ": nothing is gained";
    return `${signed(opposite.launches)} ${some}, ${told(bytes)} bytes${nothing}`;
  }
  let explained = null;
  function explain(number) {
    explained = number;
    const verdicts = data.edges[number];
    const detail = byId("detail");
    detail.replaceChildren();
    const table = document.createElement("table");
    row(table, "th", ["value → reader", "", "rule and reason", `bytes at ${said}`, "the opposite would cost, all other kernels as they are"]);
    for (const v of verdicts)
      row(table, "td", [`${v.source} → ${v.target}`, v.fused ? "fused" : "not fused", `${v.rule}: ${v.reason}`, figure(v.bytes).toLocaleString("en"), cost(v.opposite)]);
    detail.append(table);
    const known = verdicts.filter((v) => v.opposite && !v.opposite.impossible);
    const forced = byId("forced");
    forced.hidden = !known.length;
    if (known.length) {
      const first = known.reduce((a, b) => (figure(b.bytes) > figure(a.bytes) ? b : a));
      byId("forced-about").textContent = `${first.source} and ${first.target} ${first.fused ? "apart" : "together"}, beside this plan`;
      forced.children[1].textContent = signed(first.opposite.launches);
      forced.children[2].textContent = told(figure(first.opposite.bytes)) + " B";
    }
  }

  // -- an op by its name --
  const find = byId("find");
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    const named = all(".thing").map((thing) => [thing.dataset.t.split(":")[0].toLowerCase(), thing]);
    const best = named.find(([name]) => name === wanted) || named.find(([name]) => name.startsWith(wanted)) || named.find(([name]) => name.includes(wanted));
    held = null;
    light(null);
    if (!wanted || !best) return;
    hold(best[1]);
    best[1].scrollIntoView({ block: "nearest" });
  });

  // -- the sizes of Dims --
  function human(size) {
    for (const [unit, scale] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])
      if (size >= scale) return `${Number((size / scale).toPrecision(3))} ${unit}`;
    return `${size} B`;
  }
  const shown = { bytes: (number) => human(Number(number)), count: (number) => number.toLocaleString("en") };
  function resize(given, typed = null) {
    sizes = given;
    worked.clear();
    const least = sizes.reduce((a, b) => (b < a ? b : a));
    said = sizes.every((size) => size === least) ? `${least}` : data.dims.map((name, place) => `${name} ${sizes[place]}`).join(", ");
    byId("batch").value = Math.log2(Number(sizes[0]));
    const fields = [[byId("batch-size"), sizes[0]], ...all("input.dim").map((field, place) => [field, sizes[place]])];
    for (const [field, size] of fields) if (field !== typed) field.value = `${size}`;
    follow();
  }
  function follow() {
    for (const element of all("[data-f]")) element.textContent = shown[element.dataset.as || "bytes"](figure(element.dataset.f));
    const meters = all("[data-m]");
    const most = Math.max(1, ...meters.map((meter) => Number(figure(meter.dataset.m))));
    for (const meter of meters) meter.value = Number(figure(meter.dataset.m)) / most;
    const spans = data.lives.map(([size, first, last]) => ({ size: figure(size), first, last }));
    const arena = formulas.place(spans);
    const peak = byId("peak");
    peak.textContent = human(Number(figure(peak.dataset.beside) + arena.bytes));
    byId("arena-bytes").textContent = human(Number(arena.bytes));
    const whole = Math.max(1, Number(arena.bytes));
    all("#arena .held").forEach((element, place) => {
      const high = Number(byId("arena").dataset.high), size = Number(spans[place].size), top = Number(arena.offsets[place]) + size;
      const rect = element.querySelector("rect");
      rect.setAttribute("y", high - (high * top) / whole);
      rect.setAttribute("height", Math.max(1, (high * size) / whole));
    });
    if (explained !== null) explain(explained);
  }
  function typed(field) {
    const size = Math.floor(Number(field.value));
    if (!(size >= 1 && Number.isSafeInteger(size))) return;
    const place = all("input.dim").indexOf(field);
    resize(sizes.map((old, number) => (place < 0 || number === place ? BigInt(size) : old)), field);
  }
  for (const field of all("input.size")) {
    field.addEventListener("input", () => typed(field));
    field.addEventListener("change", () => resize(sizes));
  }
  if (sizes.length) {
    const slider = byId("batch");
    slider.addEventListener("input", () => resize(sizes.map(() => BigInt(Math.round(2 ** Number(slider.value))))));
    resize(sizes);
  } else follow();

  // -- the level of the graph --
  const level = byId("level");
  level.addEventListener("input", () => {
    const drawings = all(".level-drawing");
    drawings.forEach((drawing, place) => { drawing.hidden = place !== Number(level.value); });
    byId("level-name").textContent = drawings[Number(level.value)].dataset.name;
    if (held) show(held);
  });

  // -- zoom, whole panes, colours --
  for (const button of all("[data-zoom]"))
    button.addEventListener("click", () => {
      for (const drawing of all("svg.drawing", button.closest(".pane"))) {
        const scale = Number(drawing.dataset.scale || 1) * (button.dataset.zoom === "+" ? 1.25 : 0.8);
        drawing.dataset.scale = scale;
        drawing.setAttribute("width", drawing.viewBox.baseVal.width * scale);
        drawing.setAttribute("height", drawing.viewBox.baseVal.height * scale);
      }
    });
  for (const title of all(".pane > h2"))
    title.addEventListener("click", (event) => {
      if (!event.target.closest("button, input, label")) title.parentElement.classList.toggle("whole");
    });
  const root = document.documentElement;
  function colour(dark) { root.className = dark ? "dark" : "light"; }
  colour(window.matchMedia("(prefers-color-scheme: dark)").matches);
  byId("theme").addEventListener("click", () => colour(!root.classList.contains("dark")));

  // -- the keyboard --
  let cursor = null;
  function move(to) {
    if (cursor) cursor.classList.remove("cursor");
    cursor = to;
    if (!cursor) return;
    cursor.classList.add("cursor");
    cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
    held = null;
    light(cursor);
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.activeElement.blur();
    else if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    const panes = all(".pane");
    if (/^[1-9]$/.test(event.key) && panes[event.key - 1]) panes[event.key - 1].querySelector(".body").focus();
    else if (event.key === "Escape") {
      held = null; move(null); light(null);
      for (const pane of panes) pane.classList.remove("whole");
    } else if (event.key === "[" || event.key === "]") {
      if (sizes.length) resize(sizes.map((size) => (event.key === "]" ? size * 2n : (size + 1n) / 2n)));
    } else if (event.key === "/") { event.preventDefault(); find.focus(); }
    else if (event.key === "Enter" && cursor) hold(cursor);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const body = event.target.closest(".body");
      if (!body) return;
      event.preventDefault();
      const items = all(".item", body).filter((item) => !item.closest("[hidden], details:not([open])"));
      const place = items.indexOf(cursor);
      const next = event.key === "ArrowDown" ? place + 1 : place < 0 ? items.length - 1 : place - 1;
      if (items[next]) move(items[next]);
    }
  });
})();
