// Confidence matrices: a table that is a heat map, with the paper's value in each place where it has one.

const MANY_CLASSES = 24;

/** Colours a cell by a confidence; of black and white the text takes what stands out more. */
function heat(cell, confidence) {
  if (!Number.isFinite(confidence)) return cell;
  const color = d3.rgb(d3.interpolateViridis(confidence));
  const linear = [color.r, color.g, color.b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  cell.style = `background:${color.formatRgb()};color:${1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 ? "#fff" : "#000"}`;
  return cell;
}

function matrixTable(series, matrix, options) {
  const numClasses = matrix.classes.length;
  const isTall = numClasses > MANY_CLASSES;
  const cellOf = (row, col) => {
    const at = row * numClasses + col;
    const mean = matrix.mean[at];
    const mark = matrix.failed[at] ? "!" : "";
    const text = matrix.finished[at] ? `${percent(mean)} (${percent(matrix.bare[at])})${mark}` : `-${mark}`;
    const content = [element("span", { class: percent(mean) >= 90 ? "high" : "" }, text)];
    const title = [
      `${matrix.names[col]} on ${matrix.backgrounds[row]}: mean ${percent(mean)}%, best ${percent(matrix.best[at])}%,`,
      `bare ${percent(matrix.bare[at])}%, ${matrix.finished[at]} finished, ${matrix.failed[at]} failed`,
    ].join(" ");
    if (matrix.paper && Number.isFinite(matrix.paper.mean[at])) {
      const { mean: paperMean, bare: paperBare } = matrix.paper;
      content.push(element("span", { class: "paper" }, `paper ${paperMean[at]} (${paperBare[at]})`));
    }
    const cell = { text: content, sort: Number.isFinite(mean) ? mean : -1, title };
    return options.isColoured ? heat(cell, mean) : cell;
  };
  const all = (length) => Array.from({ length }, (_, at) => at);
  const rows = isTall
    ? all(numClasses).map((col) => [matrix.names[col], ...all(matrix.backgrounds.length).map((row) => cellOf(row, col))])
    : all(matrix.backgrounds.length).map((row) => [matrix.backgrounds[row], ...all(numClasses).map((col) => cellOf(row, col))]);
  const headings = isTall ? ["class", ...matrix.backgrounds] : ["background", ...matrix.names];
  const table = sortableTable(series.title, headings, rows, isTall ? "matrix tall" : "matrix");
  const beside = matrix.paper ? element("p", { class: "caption" }, `Below each value: the paper's Table ${matrix.paper.table}.`) : null;
  return [table, beside].filter(Boolean);
}

function showMatrices(facts) {
  if (!facts.series.length) return;
  reveal("matrices");
  const options = { isColoured: true };
  const boxes = element("div");
  const draw = () => {
    boxes.replaceChildren(
      ...facts.series.map((series, at) => {
        const matrix = facts.matrices[at];
        const summary = `${series.title}: ${series.fooled} of ${series.finished} fooled, mean ${percent(series.mean)}%`;
        return disclosure(summary, () => matrixTable(series, matrix, options), at < 4);
      }),
    );
  };
  const box = element("input", {
    type: "checkbox",
    checked: true,
    onchange: () => ((options.isColoured = box.checked), draw()),
  });
  section("matrices").append(
    element("div", { class: "controls" }, element("label", { class: "check" }, box, element("span", {}, "Colour by confidence"))),
    element("div", { class: "legend", "aria-hidden": "true" }, "0%", element("span", { class: "scale" }), "100%"),
    boxes,
  );
  draw();
}

function showBest(facts) {
  if (!facts.best.length) return;
  reveal("best");
  section("best").append(...facts.best.map((table, at) => disclosure(table.title, () => plainTable(table), at < 4)));
}

/** A table that Python laid out. */
function plainTable({ title, headings, rows, caption }) {
  const cells = rows.map((row) =>
    row.map(([text, isBold, isPaper]) => ({
      text: [element("span", { class: [isBold ? "high" : "", isPaper ? "paper" : ""].join(" ").trim() }, text)],
      sort: text.replace(/,/g, "").replace(/%$/, ""),
    })),
  );
  return [sortableTable(title, headings, cells), element("p", { class: "caption" }, caption)];
}
