// The gallery: one page of pictures at a time; a picture opens large, with all that is known of its cell.

const TILES = 48;
const TILE_SIZE = 112; // as in report/site/lead.py
const MOST_ZOOM = 40;

function showGallery(cells, filters) {
  reveal("gallery");
  const chosen = address.read().chosen.get("outline");
  const state = { page: 0, isOutlined: chosen ? chosen === "yes" : cells.facts.runs.some(isSmall), found: new Uint32Array() };
  const tiles = element("ul", { class: "tiles" });
  const where = element("span", { class: "where" });
  const dialog = cellDialog(cells, state);
  const tile = (cell, at) => {
    const label = `${cells.label(cell)}: ${cells.outcome(cell)}, ${percent(cells.at("confidence", cell))}%`;
    const shown = cells.hasImage(cell)
      ? picture(cells.image(cell), enlargement(cells.run(cell), TILE_SIZE), label, state.isOutlined)
      : element("span", { class: "no-picture" }, cells.failed(cell) ? "failed" : "not on this page");
    const isFooled = cells.outcome(cell) === "fooled";
    const verdict = cells.failed(cell) ? "!" : `${percent(cells.at("confidence", cell))}% ${isFooled ? "✓" : "✗"}`;
    return element(
      "li",
      {},
      element(
        "button",
        { type: "button", class: "tile", title: label, onclick: () => dialog.open(at) },
        shown,
        element("span", { class: "name" }, cells.name("target_name", cell)),
        element("span", { class: isFooled ? "fooled" : "not-fooled" }, verdict),
        element("span", { class: "muted" }, `${cells.series(cell).classifier}, ${cells.name("background", cell)}, k = ${cells.at("k", cell)}`),
      ),
    );
  };
  const draw = () => {
    const pages = Math.max(1, Math.ceil(state.found.length / TILES));
    state.page = Math.max(0, Math.min(state.page, pages - 1));
    const first = state.page * TILES;
    const shown = state.found.subarray(first, first + TILES);
    tiles.replaceChildren(...Array.from(shown, (cell, at) => tile(cell, first + at)));
    where.textContent = shown.length
      ? `${withCommas(first + 1)} to ${withCommas(first + shown.length)} of ${withCommas(state.found.length)}`
      : "no cell passes the filters";
    previous.disabled = state.page === 0;
    next.disabled = state.page >= pages - 1;
  };
  const turn = (by) => () => ((state.page += by), draw());
  const previous = element("button", { type: "button", onclick: turn(-1) }, "Previous");
  const next = element("button", { type: "button", onclick: turn(1) }, "Next");
  const outline = element("input", {
    type: "checkbox",
    checked: state.isOutlined,
    onchange: () => {
      state.isOutlined = outline.checked;
      address.choose("outline", outline.checked ? "yes" : "no");
      draw();
    },
  });
  section("gallery").append(
    element(
      "div",
      { class: "controls" },
      element("label", { class: "check" }, outline, element("span", {}, "Outline altered pixels")),
      element("span", { class: "pager" }, previous, where, next),
    ),
    tiles,
  );
  filters.listen((found) => {
    Object.assign(state, { found, page: 0 });
    draw();
  });
  return dialog;
}

function cellDialog(cells, state) {
  let at = 0;
  let list = null;
  let zoom = 0; // a whole factor; 0 fits the image into the window
  const body = element("div", { class: "cell" });
  const show = () => {
    const cell = list[at];
    const image = cells.hasImage(cell) ? cells.image(cell) : null;
    const size = Math.min(448, innerWidth - 80);
    const factor = image && (zoom || Math.max(1, Math.floor(size / Math.max(image.height, image.width))));
    const drawn = image && picture(image, factor, cells.label(cell), state.isOutlined);
    const big = image
      ? element("div", { class: "large", tabindex: "0", role: "region", "aria-label": "Enlarged image" }, drawn)
      : element("p", {}, "No image of this cell is on the page.");
    const zoomTo = (next) => () => ((zoom = Math.max(1, Math.min(MOST_ZOOM, next))), show());
    const buttons = [
      element("button", { type: "button", disabled: at === 0, onclick: () => (at--, show()) }, "Previous"),
      element("button", { type: "button", disabled: at === list.length - 1, onclick: () => (at++, show()) }, "Next"),
    ];
    if (image) {
      buttons.push(
        element("button", { type: "button", class: "smaller", disabled: factor <= 1, onclick: zoomTo(factor - 1) }, "Zoom out"),
        element("button", { type: "button", class: "larger", disabled: factor >= MOST_ZOOM, onclick: zoomTo(factor + 1) }, "Zoom in"),
        element("span", { class: "muted", role: "status" }, `${factor}x`),
        element("button", { type: "button", onclick: () => ((state.isOutlined = !state.isOutlined), show()) }, state.isOutlined ? "Plain" : "Outline"),
        element("button", { type: "button", class: "save", onclick: () => download(paint(document.createElement("canvas"), image), cells.fileName(cell)) }, `Download PNG, ${image.width} x ${image.height}`),
      );
      if (state.isOutlined) {
        const name = cells.fileName(cell).replace(".png", "_outlined.png");
        buttons.push(element("button", { type: "button", onclick: () => download(drawn, name) }, "Download outlined PNG"));
      }
    }
    body.replaceChildren(
      element("h3", { id: "cell-title" }, cells.label(cell)),
      big,
      element("div", { class: "controls" }, ...buttons),
      element("dl", {}, ...details(cells, cell).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    );
  };
  const box = element(
    "dialog",
    { "aria-labelledby": "cell-title" },
    element("form", { method: "dialog" }, element("button", { class: "close" }, "Close")),
    body,
  );
  document.body.append(box);
  return {
    open(place, found = state.found) {
      at = place;
      list = found;
      zoom = 0;
      show();
      box.showModal();
    },
  };
}

function details(cells, cell) {
  const run = cells.run(cell);
  const share = (column) => `${percent(cells.at(column, cell))}%`;
  const lines = [
    ["run", run.label],
    ["cell", `${cells.at("cell_index", cell)}, replicate ${cells.at("replicate", cell)}`],
    ["outcome", cells.outcome(cell)],
  ];
  if (cells.failed(cell)) return [...lines, ["reason", cells.name("error", cell)]];
  lines.push(
    ["confidence", `${cells.at("confidence", cell).toPrecision(6)}, of the bare background ${share("background_confidence")}`],
    ["predicted", `${cells.predicted(cell)}, ${share("predicted_confidence")}`],
    ["altered pixels", withCommas(cells.at("num_altered", cell))],
    ["search", `${cells.series(cell).attack}, ended by ${cells.name("stop_reason", cell)}`],
    ["evaluations", withCommas(cells.at("evaluations", cell))],
  );
  if (cells.at("backward_passes", cell) > 0) lines.push(["backward passes", withCommas(cells.at("backward_passes", cell))]);
  if (cells.at("image_index", cell) >= 0) {
    lines.push(["natural image", `${cells.name("image", cell)}, ${share("image_confidence")}`]);
    lines.push(["inner product of features", cells.at("feature_inner_product", cell).toFixed(3)]);
  }
  return lines;
}
