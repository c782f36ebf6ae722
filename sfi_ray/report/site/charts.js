// Charts, all by Plot: confidence against evaluations, success against k, where evaluations and time went.

function chart(label, options) {
  const drawn = Plot.plot({
    width: Math.max(300, Math.min(960, document.querySelector("main").clientWidth - 32)),
    marginLeft: 60,
    marginTop: 32, // the highest tick does not touch the axis's label
    style: { background: "transparent", color: "inherit", fontFamily: "inherit", fontSize: "12px" },
    ...options,
  });
  const image = drawn.tagName === "svg" ? drawn : drawn.querySelector(":scope > svg");
  // An image has one name; those that Plot gives to its groups are not allowed on them.
  for (const group of image.querySelectorAll("g[aria-label]")) group.removeAttribute("aria-label");
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", label);
  return drawn;
}

/** A chart below its controls, drawn anew when one of them changes or the page gets another width. */
function controlled(id, controls, state, draw) {
  const place = element("div", { class: "chart" });
  const redraw = () => {
    const isOpen = [...place.querySelectorAll("details")].map((box) => box.open);
    place.replaceChildren(...[draw(state)].flat());
    for (const [number, box] of place.querySelectorAll("details").entries()) {
      if (!isOpen[number]) continue;
      box.open = true;
      box.dispatchEvent(new Event("toggle")); // the browser's own comes later
    }
  };
  section(id).append(
    element(
      "div",
      { class: "controls" },
      ...controls.map(([name, label, options]) =>
        choice(label, options, (value) => ((state[name] = value), redraw()), state[name]),
      ),
    ),
    place,
  );
  redraw();
  onNewWidth(redraw);
}

/** Calls back when the page gets another width, until it is drawn anew. */
function onNewWidth(redraw) {
  let width = innerWidth;
  const listen = () => {
    if (innerWidth !== width) redraw();
    width = innerWidth;
  };
  addEventListener("resize", listen, { signal: drawing.signal });
}

function palette(names) {
  return { legend: true, domain: [...new Set(names)] };
}

// Names of backgrounds are CSS colours, and would be drawn as they are, whatever the legend says.
function colouredBy(column) {
  return { value: column, scale: "color" };
}

const MEASURES = {
  median: { label: "median confidence", value: (trajectory, row, at) => trajectory.quartiles[(row * 3 + 1) * trajectory.evaluations.length + at] },
  mean: { label: "mean confidence", value: (trajectory, row, at) => trajectory.mean[row * trajectory.evaluations.length + at] },
  fooled: { label: "share of cells fooled", value: (trajectory, row, at) => trajectory.fooled[row * trajectory.evaluations.length + at] },
};

function showTrajectories(facts) {
  if (!facts.trajectories.length) return;
  reveal("trajectory");
  const of = [["all", "every classifier, attack and k"]];
  of.push(...facts.trajectories.map((trajectory, at) => [at, `backgrounds of ${facts.series[trajectory.series].title}`]));
  const measures = Object.entries(MEASURES).map(([name, { label }]) => [name, label]);
  const state = { of: "all", measure: "median" };
  controlled("trajectory", [["of", "Show", of], ["measure", "Measure", measures]], state, (chosen) => trajectoryChart(facts, chosen));
}

function trajectoryChart(facts, state, options = {}) {
  const lines = state.of === "all"
    ? facts.trajectories.map((trajectory) => [trajectory, trajectory.names.length, facts.series[trajectory.series].title])
    : facts.trajectories[state.of].names.map((name, row) => [facts.trajectories[state.of], row, name]);
  const measure = MEASURES[state.measure];
  const points = lines.flatMap(([trajectory, row, name]) =>
    Array.from(trajectory.evaluations, (evaluations, at) => ({
      name,
      evaluations,
      value: measure.value(trajectory, row, at),
      low: trajectory.quartiles[row * 3 * trajectory.evaluations.length + at],
      high: trajectory.quartiles[(row * 3 + 2) * trajectory.evaluations.length + at],
    })),
  );
  const marks = [Plot.ruleY([0]), Plot.lineY(points, { x: "evaluations", y: "value", stroke: colouredBy("name"), strokeWidth: 2, curve: "step-after" })];
  if (state.measure === "median" && lines.length <= 4) {
    marks.push(Plot.areaY(points, { x: "evaluations", y1: "low", y2: "high", fill: colouredBy("name"), fillOpacity: 0.15, curve: "step-after" }));
  }
  marks.push(Plot.tip(points, Plot.pointer({ x: "evaluations", y: "value", title: (d) => `${d.name}\n${withCommas(d.evaluations)} evaluations: ${percent(d.value)}%` })));
  return chart(`${measure.label} against evaluations of a cell`, {
    marginBottom: 48,
    x: { type: "log", label: "evaluations of a cell", labelOffset: 40, tickFormat: "~s", grid: true, ticks: 5 },
    y: { domain: [0, 100], percent: true, label: `${measure.label} (%)`, grid: true },
    color: palette(points.map((point) => point.name)),
    marks,
    ...options,
  });
}

const numbersOfK = (facts) => [...new Set(facts.by_k.map((row) => row.k))].sort((a, b) => a - b);

function showSuccess(facts) {
  if (numbersOfK(facts).length < 2) return;
  reveal("success");
  const measures = Object.entries(SUCCESS);
  controlled("success", [["measure", "Measure", measures]], { measure: "share" }, (state) => [
    successChart(facts, state.measure),
    disclosure("As a table", () => plainTable(facts.tables.by_k), false),
  ]);
}

const SUCCESS = { share: "share of cells fooled", mean: "mean confidence" };

function successChart(facts, measure, options = {}) {
  const points = facts.by_k.map((row) => ({
    ...row,
    name: facts.runs.length > 1 ? `${row.run}: ${row.classifier}, ${row.attack}` : `${row.classifier}, ${row.attack}`,
    share: row.fooled / row.cells,
    mean: row.confidence / row.cells,
  }));
  const ks = numbersOfK(facts);
  const place = { x: "k", y: measure, stroke: "name" };
  return chart(`${SUCCESS[measure]} against k`, {
    marginBottom: 48,
    x: { type: ks.length > 12 ? "linear" : "point", label: "k, pixels that may be altered", labelOffset: 40, ...(ks.length > 12 ? {} : { domain: ks }) },
    y: { domain: [0, 100], percent: true, label: `${SUCCESS[measure]} (%)`, grid: true },
    color: palette(points.map((point) => point.name)),
    marks: [
      Plot.ruleY([0]),
      Plot.lineY(points, { ...place, z: "name", sort: "k" }),
      Plot.dot(points, { ...place, fill: "name", r: 4 }),
      Plot.tip(points, Plot.pointer({ ...place, stroke: undefined, title: (d) => `${d.name}\nk = ${d.k}: ${d.fooled} of ${d.cells} fooled, mean ${percent(d.mean)}%` })),
    ],
    ...options,
  });
}

const LEAD_ROWS = 24;

/** The chart of the first screen: success by k; else shares of fooled cells; else the trajectory of the only series. */
function showLead(facts) {
  const place = document.getElementById("lead-chart");
  const draw = () => {
    const options = { width: Math.max(300, place.clientWidth || 300) };
    const bars = sharesFooled(facts);
    const drawn =
      numbersOfK(facts).length > 1
        ? successChart(facts, "share", options)
        : bars.length > 1
          ? sharesChart(bars, options)
          : facts.trajectories.length
            ? trajectoryChart(facts, { of: "all", measure: "median" }, options)
            : null;
    place.replaceChildren(...[drawn].filter(Boolean));
  };
  draw();
  onNewWidth(draw);
}

/** Fooled and searched cells of each network and background, or of each network where these are too many. */
function sharesFooled(facts) {
  const finished = facts.spent.filter((row) => row.stop_reason !== "failed");
  const distinct = (column) => new Set(finished.map((row) => row[column])).size;
  const network = (row) => [distinct("run") > 1 ? row.run : "", row.classifier, distinct("attack") > 1 ? row.attack : ""].filter(Boolean).join(", ");
  const fine = (row) => [distinct("classifier") * distinct("run") * distinct("attack") > 1 ? network(row) : "", row.background].filter(Boolean).join(", ");
  const sums = (by) =>
    d3.rollups(finished, (rows) => ({ fooled: d3.sum(rows, (row) => row.fooled), cells: d3.sum(rows, (row) => row.cells) }), by)
      .map(([name, sum]) => ({ name, ...sum, share: sum.fooled / sum.cells }));
  const found = sums(fine);
  return found.length <= LEAD_ROWS ? found : sums(network).slice(0, LEAD_ROWS);
}

function sharesChart(bars, options) {
  const short = (name) => (name.length > 22 ? `${name.slice(0, 21)}…` : name);
  return chart("share of cells fooled", {
    marginLeft: 16 + 6.6 * Math.max(...bars.map((bar) => short(bar.name).length)),
    marginRight: 72,
    marginBottom: 48,
    height: 80 + 24 * bars.length,
    x: { domain: [0, 100], percent: true, ticks: 5, label: "share of cells fooled (%)", labelOffset: 40, grid: true },
    y: { label: null, domain: bars.map((bar) => bar.name), tickFormat: short, tickSize: 0 },
    marks: [
      Plot.barX(bars, { x: "share", y: "name", fill: "var(--accent)", insetTop: 2, insetBottom: 2 }),
      Plot.text(bars, { x: "share", y: "name", text: (bar) => `${withCommas(bar.fooled)} of ${withCommas(bar.cells)}`, textAnchor: "start", dx: 5 }),
      Plot.ruleX([0]),
    ],
    ...options,
  });
}

function showSpending(facts) {
  if (facts.spent.length < 2) return;
  reveal("spending");
  const rows = facts.spent.map((row) => ({
    ...row,
    name: `${facts.runs.length > 1 ? `${row.run}: ` : ""}${row.classifier}, ${row.attack}`,
    stratum: `k = ${row.k}`,
  }));
  const measures = [["evaluations", "evaluations"], ["seconds", "seconds of search"], ["backward_passes", "backward passes"], ["cells", "cells"]];
  const by = [["stop_reason", "why the search ended"], ["background", "background"], ["stratum", "k"]];
  controlled("spending", [["measure", "Measure", measures], ["by", "Divided by", by]], { measure: "evaluations", by: "stop_reason" }, (state) => {
    const label = measures.find(([name]) => name === state.measure)[1];
    const names = [...new Set(rows.map((row) => row.name))];
    const sums = d3.flatRollup(rows, (some) => d3.sum(some, (row) => row[state.measure]), (row) => row.name, (row) => row[state.by]);
    const parts = sums.map(([name, part, sum]) => ({ name, part, sum }));
    return [
      chart(`${label} of each classifier and attack`, {
        marginLeft: Math.min(220, 24 + 7 * Math.max(...names.map((name) => name.length))),
        height: 90 + 34 * names.length,
        marginBottom: 48,
        x: { label, labelOffset: 40, grid: true, tickFormat: "~s", ticks: innerWidth > NARROW ? 5 : 2 },
        y: { label: null, domain: names },
        color: palette(parts.map((row) => row.part)),
        marks: [
          Plot.barX(parts, { x: "sum", y: "name", fill: colouredBy("part"), tip: true }),
          Plot.ruleX([0]),
        ],
      }),
      disclosure("As a table", () => plainTable(facts.tables.spending), false),
    ];
  });
}

function showFailures(facts) {
  if (!facts.tables.failures) return;
  reveal("failures");
  section("failures").append(...plainTable(facts.tables.failures));
}
