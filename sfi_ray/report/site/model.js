// What the other parts ask of the data: a cell's names, its image, which cells a filter lets through.

/** Whole percents rounded down, with 100 only for exactly 1, as the paper prints them (`as_percent` in tables.py). */
function percent(confidence) {
  if (!Number.isFinite(confidence)) return "-";
  return String(confidence >= 1 ? 100 : Math.min(99, Math.floor(100 * confidence + 1e-5)));
}

const withCommas = (number) => number.toLocaleString("en");

class Cells {
  constructor(facts) {
    this.facts = facts;
    this.columns = facts.cells.columns;
    this.count = this.columns.run.length;
    // Names of backgrounds and classes are distinct codes, so a filter compares numbers.
    this.isFailed = facts.cells.names.stop_reason.map((reason) => reason === "failed");
  }

  at(column, cell) {
    return this.columns[column][cell];
  }

  name(column, cell) {
    return this.facts.cells.names[column][this.columns[column][cell]];
  }

  run(cell) {
    return this.facts.runs[this.columns.run[cell]];
  }

  series(cell) {
    return this.facts.series[this.columns.series[cell]];
  }

  failed(cell) {
    return this.isFailed[this.columns.stop_reason[cell]];
  }

  outcome(cell) {
    return this.failed(cell) ? "failed" : this.columns.fooled[cell] === 1 ? "fooled" : "not fooled";
  }

  predicted(cell) {
    const number = this.columns.predicted_class[cell];
    return number < 0 ? "" : (this.run(cell).class_names[number] ?? `class ${number}`);
  }

  hasImage(cell) {
    return this.facts.cells.has_image[cell] === 1 && !this.failed(cell);
  }

  /** The 8-bit image of a cell with a list of its altered spots. */
  image(cell) {
    const { starts, rows, cols, values } = this.facts.cells;
    const { height, width, channels, first_value: firstValue, first_pixel: firstPixel } = this.run(cell);
    const background = this.facts.cells.background_values[this.columns.background[cell]];
    const pixels = new Uint8Array(height * width * channels);
    for (let at = 0; at < pixels.length; at++) pixels[at] = background[at % channels];
    const spots = [];
    for (let at = starts[cell]; at < starts[cell + 1]; at++) {
      const to = (rows[at] * width + cols[at]) * channels;
      const from = firstValue + (at - firstPixel) * channels;
      for (let channel = 0; channel < channels; channel++) pixels[to + channel] = values[from + channel];
      spots.push([rows[at], cols[at]]);
    }
    return { pixels, height, width, channels, spots };
  }

  label(cell) {
    const series = this.series(cell);
    return (
      `${series.classifier}, ${this.name("target_name", cell)} on ${this.name("background", cell)}, ` +
      `k = ${this.at("k", cell)}`
    );
  }

  fileName(cell) {
    const parts = [this.run(cell).label, this.series(cell).classifier, this.name("background", cell)];
    parts.push(this.name("target_name", cell), `k${this.at("k", cell)}`, this.at("cell_index", cell));
    return `${parts.join("_").replace(/[^A-Za-z0-9.-]+/g, "_")}.png`;
  }
}

/** The cells that pass, in the order asked for. An empty string lets everything pass. */
function select(cells, filter, order) {
  const { facts, columns } = cells;
  const words = filter.target.trim().toLowerCase();
  const isTarget = facts.cells.names.target_name.map((name) => name.toLowerCase().includes(words));
  const isSeries = facts.series.map(
    (series) =>
      (filter.run === "" || series.run === Number(filter.run)) &&
      (filter.classifier === "" || series.classifier === filter.classifier) &&
      (filter.attack === "" || series.attack === filter.attack),
  );
  const background = filter.background === "" ? -1 : facts.cells.names.background.indexOf(filter.background);
  const k = filter.k === "" ? -1 : Number(filter.k);
  const found = new Uint32Array(cells.count);
  let count = 0;
  for (let cell = 0; cell < cells.count; cell++) {
    if (!isSeries[columns.series[cell]] || (words && !isTarget[columns.target_name[cell]])) continue;
    if (background >= 0 && columns.background[cell] !== background) continue;
    if (k >= 0 && columns.k[cell] !== k) continue;
    if (filter.outcome && cells.outcome(cell) !== filter.outcome) continue;
    found[count++] = cell;
  }
  return sorted(cells, found.subarray(0, count), order);
}

/** Sorts cells by a column, equal ones in the order of the grid; cells without a number come last. */
function sorted(cells, found, { column, descending }) {
  if (column === "grid") return descending ? found.reverse() : found;
  const values = sortKeys(cells, column);
  const sign = descending ? -1 : 1;
  return found.sort((a, b) => {
    const x = values[a];
    const y = values[b];
    if (x === y || (x !== x && y !== y)) return a - b;
    if (x !== x) return 1;
    if (y !== y) return -1;
    return x < y ? -sign : sign;
  });
}

/** Numbers that order cells by a column; names are ranked alphabetically. */
function sortKeys(cells, column) {
  const rank = (names) => {
    const order = names.map((_, at) => at).sort((a, b) => (names[a] < names[b] ? -1 : 1));
    const ranks = new Uint32Array(names.length);
    order.forEach((at, place) => (ranks[at] = place));
    return ranks;
  };
  if (column === "series") {
    const ranks = rank(cells.facts.series.map((series) => series.title));
    return Uint32Array.from(cells.columns.series, (series) => ranks[series]);
  }
  if (column in cells.facts.cells.names) {
    const ranks = rank(cells.facts.cells.names[column]);
    return Uint32Array.from(cells.columns[column], (code) => ranks[code]);
  }
  return cells.columns[column];
}
