// Where images are altered (Figure 10), and natural images beside what imitates them (Figures 8, 9).

/** Black, red, yellow, white as more images are altered in a pixel, as in the paper. */
const altered = (share) => d3.rgb(Math.min(1, 3 * share) * 255, Math.max(0, Math.min(1, 3 * share - 1)) * 255, Math.max(0, 3 * share - 2) * 255);

function showPositions(facts) {
  if (!facts.positions.length) return;
  reveal("positions");
  const columns = [...new Set(facts.positions.flatMap((found) => found.names))];
  const cellOf = (found, name) => {
    const col = found.names.indexOf(name);
    if (col < 0 || !found.numbers[col]) return { text: "-", sort: -1 };
    const size = found.height * found.width;
    const shares = found.levels.subarray(col * size, (col + 1) * size);
    const pixels = new Uint8Array(size * 3);
    shares.forEach((share, at) => {
      const color = altered(share / 255);
      pixels.set([color.r, color.g, color.b], at * 3);
    });
    const label = `Altered positions of ${name}, ${facts.series[found.series].title}; white is ${percent(found.highest[col])}% of ${found.numbers[col]} images`;
    const image = { pixels, height: found.height, width: found.width, channels: 3, spots: [] };
    const drawn = picture(image, enlargement(image, 64), label);
    drawn.title = label;
    return { text: [drawn, element("span", { class: "muted" }, `${percent(found.highest[col])}% of ${withCommas(found.numbers[col])}`)], sort: found.highest[col] };
  };
  const rows = facts.positions.map((found) => [facts.series[found.series].title, ...columns.map((name) => cellOf(found, name))]);
  section("positions").append(sortableTable("Altered positions by class and method", ["series", ...columns], rows, "pictures"));
}

const PAIRS = 20;

function showPairs(cells, facts, dialog) {
  const ofImage = new Map();
  for (let cell = 0; cell < cells.count; cell++) {
    if (cells.at("image_index", cell) < 0 || !cells.hasImage(cell)) continue;
    const key = `${cells.at("run", cell)}/${cells.at("image_index", cell)}`;
    ofImage.set(key, [...(ofImage.get(key) ?? []), cell]);
  }
  if (!ofImage.size) return;
  reveal("pairs");
  const groups = [...ofImage.values()];
  const list = element("ul", { class: "pairs" });
  const natural = (cell) => {
    const run = cells.run(cell);
    if (!run.natural) return null;
    const size = run.height * run.width * run.channels;
    const at = cells.at("image_index", cell) * size;
    if (at + size > run.natural.length) return null;
    const image = { pixels: run.natural.subarray(at, at + size), height: run.height, width: run.width, channels: run.channels, spots: [] };
    return figure(picture(image, enlargement(image, TILE_SIZE), `Natural image of ${cells.name("target_name", cell)}`), "natural", `${percent(cells.at("image_confidence", cell))}%`);
  };
  const figure = (content, ...lines) =>
    element("figure", {}, content, element("figcaption", {}, ...lines.map((line) => element("span", {}, line))));
  const imitation = (group) => (cell, at) => {
    const button = element(
      "button",
      { type: "button", class: "tile", title: cells.label(cell), onclick: () => dialog.open(at, group) },
      picture(cells.image(cell), enlargement(cells.run(cell), TILE_SIZE), cells.label(cell)),
    );
    const verdict = `${percent(cells.at("confidence", cell))}% ${cells.outcome(cell) === "fooled" ? "✓" : "✗"}`;
    const product = `inner product ${cells.at("feature_inner_product", cell).toFixed(3)}`;
    return figure(button, `${cells.series(cell).classifier}, ${cells.name("background", cell)}`, verdict, product);
  };
  const show = (from) => {
    for (const group of groups.slice(from, from + PAIRS)) {
      const title = `${cells.name("target_name", group[0])} (${cells.name("image", group[0])})`;
      list.append(element("li", {}, element("h3", {}, title), element("div", { class: "pair" }, natural(group[0]) ?? "", ...group.slice(0, 24).map(imitation(group)))));
    }
    more.hidden = from + PAIRS >= groups.length;
  };
  const more = element("button", { type: "button", onclick: () => show(list.children.length) }, "Show more");
  section("pairs").append(list, more);
  show(0);
}
