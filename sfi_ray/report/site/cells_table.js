// Filters for cells, and the table of all cells: regular-table asks for the rows in view only.

function makeFilters(cells, facts) {
  const filter = { run: "", classifier: "", attack: "", background: "", target: "", k: "", outcome: "" };
  const order = { column: "grid", descending: false };
  const listeners = [];
  const count = element("p", { class: "count", role: "status" });
  const update = () => {
    const found = select(cells, filter, order);
    const sample = facts.cells.total > cells.count ? `, a sample of ${withCommas(facts.cells.total)}` : "";
    count.textContent = `${withCommas(found.length)} of ${withCommas(cells.count)} cells${sample}`;
    for (const listener of listeners) listener(found);
  };
  const change = (name) => (value) => ((filter[name] = value), update());
  const distinct = (values) => [["", "all"], ...[...new Set(values)].map((value) => [value, value])];
  const search = element("input", { type: "search", oninput: () => change("target")(search.value), placeholder: "part of a name", list: "class-names" });
  const names = [...new Set(facts.cells.names.target_name.slice(1))].map((value) => element("option", { value }));
  const ks = Uint32Array.from(new Set(cells.columns.k)).sort();
  const orders = [["grid", "place in the grid"], ["confidence", "confidence"], ["evaluations", "evaluations"], ["num_altered", "altered pixels"]];
  const direction = choice("Direction", [["up", "ascending"], ["down", "descending"]], (value) => ((order.descending = value === "down"), update()));
  const column = choice("Order by", orders, (value) => ((order.column = value), update()));
  const runs = [["", "all"], ...facts.runs.map((run, at) => [at, run.label])];
  reveal("filters");
  section("filters").append(
    element(
      "div",
      { class: "controls" },
      facts.runs.length > 1 ? choice("Run", runs, change("run")) : null,
      choice("Classifier", distinct(facts.series.map((series) => series.classifier)), change("classifier")),
      choice("Attack", distinct(facts.series.map((series) => series.attack)), change("attack")),
      choice("Background", distinct(facts.cells.names.background.slice(1)), change("background")),
      labelled("Class", search),
      choice("k", distinct(ks), change("k")),
      choice("Outcome", distinct(["fooled", "not fooled", "failed"]), change("outcome")),
      column,
      direction,
    ),
    element("datalist", { id: "class-names" }, ...names),
    count,
  );
  return {
    listen: (listener) => listeners.push(listener),
    update,
    orderBy(name) {
      order.descending = order.column === name ? !order.descending : false;
      order.column = name;
      column.querySelector("select").value = name;
      direction.querySelector("select").value = order.descending ? "down" : "up";
      update();
    },
    order,
  };
}

const TABLE_COLUMNS = [
  ["series", "series", (cells, cell) => cells.series(cell).title],
  ["background", "background", (cells, cell) => cells.name("background", cell)],
  ["target_name", "class", (cells, cell) => cells.name("target_name", cell)],
  ["k", "k", (cells, cell) => String(cells.at("k", cell))],
  ["replicate", "replicate", (cells, cell) => String(cells.at("replicate", cell))],
  ["stop_reason", "ended by", (cells, cell) => cells.name("stop_reason", cell)],
  ["confidence", "confidence", (cells, cell) => percent(cells.at("confidence", cell))],
  ["background_confidence", "bare", (cells, cell) => percent(cells.at("background_confidence", cell))],
  ["predicted_class", "predicted", (cells, cell) => cells.predicted(cell)],
  ["num_altered", "altered", (cells, cell) => String(Math.max(0, cells.at("num_altered", cell)))],
  ["evaluations", "evaluations", (cells, cell) => withCommas(cells.at("evaluations", cell))],
  ["error", "error", (cells, cell) => cells.name("error", cell)],
];

function showCellsTable(cells, filters, dialog) {
  reveal("cells");
  let found = new Uint32Array();
  const table = element("regular-table", { role: "region", tabindex: "0", "aria-label": "All cells that pass the filters" });
  section("cells").append(table);
  const columns = TABLE_COLUMNS.filter(([name]) => name !== "error" || cells.facts.cells.names.error.length > 1);
  const header = ([name, title]) => {
    const { column, descending } = filters.order;
    const mark = column === name ? (descending ? " ▼" : " ▲") : "";
    return element("button", { type: "button", class: "sort", onclick: () => filters.orderBy(name) }, title + mark);
  };
  const opener = (cell, at) => {
    const title = `Open cell ${cells.at("cell_index", cell)}`;
    return element("button", { type: "button", class: "open", title, onclick: () => dialog.open(at, found) }, String(cells.at("cell_index", cell)));
  };
  table.setDataListener(async (x0, y0, x1, y1) => {
    const rows = Array.from(found.subarray(y0, y1));
    const shown = [["grid", "cell"], ...columns].slice(x0, x1);
    return {
      num_rows: found.length,
      num_columns: columns.length + 1,
      column_headers: shown.map((column) => [header(column)]),
      data: shown.map(([name, , text]) =>
        rows.map((cell, at) => (name === "grid" ? opener(cell, y0 + at) : text(cells, cell))),
      ),
    };
  });
  filters.listen((cellsFound) => {
    found = cellsFound;
    table.scrollTop = 0;
    table.draw();
  });
}
