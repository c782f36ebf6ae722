// Filters for cells, and the table of all cells: regular-table asks for the rows in view only.

function makeFilters(cells, facts) {
  const filter = { run: "", classifier: "", attack: "", background: "", target: "", k: "", outcome: "" };
  const order = { column: "grid", descending: false };
  const controls = {};
  const listeners = [];
  const count = element("p", { class: "count", role: "status" });
  const update = () => {
    const found = select(cells, filter, order);
    const sample = facts.cells.total > cells.count ? `, a sample of ${withCommas(facts.cells.total)}` : "";
    count.textContent = `${withCommas(found.length)} of ${withCommas(cells.count)} cells${sample}`;
    for (const listener of listeners) listener(found);
  };
  const change = (name) => (value) => ((filter[name] = value), address.choose(name, value), update());
  const distinct = (values) => [["", "all"], ...[...new Set(values)].map((value) => [value, value])];
  /** A filter by a name; one that could not choose anything is left out. */
  const filterBy = (name, label, options) => {
    if (options.length <= 2) return null;
    controls[name] = choice(label, options, change(name));
    return controls[name];
  };
  const search = element("input", { type: "search", oninput: () => change("target")(search.value), placeholder: "part of a name", list: "class-names" });
  const names = [...new Set(facts.cells.names.target_name.slice(1))].map((value) => element("option", { value }));
  const ks = Uint32Array.from(new Set(cells.columns.k)).sort();
  const orders = [["grid", "place in the grid"], ["confidence", "confidence"], ["evaluations", "evaluations"], ["num_altered", "altered pixels"]];
  const sortBy = (name, isDescending) => {
    Object.assign(order, { column: name, descending: isDescending });
    address.choose("order", name === "grid" ? "" : name);
    address.choose("descending", isDescending ? "yes" : "");
    column.querySelector("select").value = name;
    direction.querySelector("select").value = isDescending ? "down" : "up";
    update();
  };
  const direction = choice("Direction", [["up", "ascending"], ["down", "descending"]], (value) => sortBy(order.column, value === "down"));
  const column = choice("Order by", orders, (value) => sortBy(value, order.descending));
  const runs = [["", "all"], ...facts.runs.map((run, at) => [at, run.label])];
  reveal("filters");
  section("filters").append(
    count,
    element(
      "details",
      { open: innerWidth > NARROW },
      element("summary", {}, "Choose images and cells"),
      element(
        "div",
        { class: "controls" },
        filterBy("run", "Run", runs),
        filterBy("classifier", "Classifier", distinct(facts.series.map((series) => series.classifier))),
        filterBy("attack", "Attack", distinct(facts.series.map((series) => series.attack))),
        filterBy("background", "Background", distinct(facts.cells.names.background.slice(1))),
        names.length > 1 ? labelled("Class", search) : null,
        filterBy("k", "k", distinct(ks)),
        filterBy("outcome", "Outcome", distinct(["fooled", "not fooled", "failed"])),
        column,
        direction,
      ),
      element("datalist", { id: "class-names" }, ...names),
    ),
  );
  /** Takes the filters from the page's address; a value that no cell has counts as none. */
  const restore = () => {
    const { chosen } = address.read();
    for (const [name, control] of Object.entries(controls)) {
      const select = control.querySelector("select");
      select.value = chosen.get(name) ?? "";
      if (select.selectedIndex < 0) select.value = "";
      filter[name] = select.value;
    }
    filter.target = search.value = chosen.get("target") ?? "";
    const known = orders.map(([name]) => name).concat(TABLE_COLUMNS.map(([name]) => name));
    const wanted = chosen.get("order");
    Object.assign(order, { column: known.includes(wanted) ? wanted : "grid", descending: chosen.get("descending") === "yes" });
    column.querySelector("select").value = order.column;
    direction.querySelector("select").value = order.descending ? "down" : "up";
    update();
  };
  addEventListener("hashchange", restore, { signal: drawing.signal });
  return {
    restore,
    listen: (listener) => listeners.push(listener),
    orderBy: (name) => sortBy(name, order.column === name && !order.descending),
    order,
  };
}

// Columns that are left out where all cells have one value, and those that a phone has room for.
const GRID_COLUMNS = ["series", "background", "target_name", "k", "replicate"];
const NARROW_COLUMNS = ["confidence", "background_confidence", "target_name", "background"];
const NARROW = 640; // as in style.css

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
  const isOne = (name) => cells.columns[name].every((value) => value === cells.columns[name][0]);
  const isShown = (name) => (name === "error" ? cells.facts.cells.names.error.length > 1 : !GRID_COLUMNS.includes(name) || !isOne(name));
  const fitting = innerWidth > NARROW ? TABLE_COLUMNS : NARROW_COLUMNS.map((name) => TABLE_COLUMNS.find((column) => column[0] === name));
  const columns = fitting.filter(([name]) => isShown(name));
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
