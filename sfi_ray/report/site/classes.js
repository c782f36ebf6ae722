// Confidence by target class (Figure 6): readable and searchable also for a thousand classes.

const NAMED_CLASSES = 30;
const LISTED_CLASSES = 20;
// Points have the colours of their backgrounds: without a rim, black ones are lost on a dark page and white ones on a light.
const rim = { stroke: "currentColor", strokeWidth: 0.9 };

function colourOf(facts, background) {
  const [red, green = red, blue = red] = facts.cells.background_values[facts.cells.names.background.indexOf(background)];
  return `rgb(${red}, ${green}, ${blue})`;
}

function showClasses(facts) {
  if (!facts.matrices.some((matrix) => matrix.classes.length > 1)) return;
  reveal("classes");
  const measures = { best: "highest confidence", mean: "mean confidence", bare: "confidence of the bare background" };
  const state = { series: 0, measure: "best", order: "class", words: "" };
  const place = element("div", { class: "chart" });
  const list = element("div", { "aria-live": "polite" });
  const pointsOf = () => {
    const matrix = facts.matrices[state.series];
    const size = matrix.classes.length;
    const columns = Array.from({ length: size }, (_, at) => at);
    const top = columns.map((col) => d3.max(matrix.backgrounds, (_, row) => matrix[state.measure][row * size + col]));
    if (state.order === "confidence") columns.sort((a, b) => (top[b] ?? -1) - (top[a] ?? -1));
    return columns.flatMap((col, rank) =>
      matrix.backgrounds.map((background, row) => ({
        on: background,
        rank: state.order === "class" ? matrix.classes[col] : rank + 1,
        name: matrix.names[col],
        value: matrix[state.measure][row * size + col],
      })),
    );
  };
  const draw = () => {
    const points = pointsOf().filter((point) => Number.isFinite(point.value));
    const words = state.words.trim().toLowerCase();
    const isFound = (point) => !words || point.name.toLowerCase().includes(words);
    const { classes, backgrounds } = facts.matrices[state.series];
    const isNamed = classes.length <= NAMED_CLASSES;
    const x = isNamed ? "name" : "rank";
    const label = measures[state.measure];
    const channels = { x, y: "value" };
    place.replaceChildren(
      chart(`${label} of each target class, ${facts.series[state.series].title}`, {
        marginBottom: isNamed ? 80 : 48,
        x: isNamed
          ? { type: "point", label: null, domain: [...new Set(points.map((point) => point.name))], tickRotate: -45 }
          : { label: state.order === "class" ? "target class" : "target classes, the highest first", labelOffset: 40 },
        y: { domain: [0, 100], percent: true, label: `${label} (%)`, grid: true },
        color: { legend: true, domain: backgrounds, range: backgrounds.map((name) => colourOf(facts, name)) },
        marks: [
          Plot.ruleY([0]),
          Plot.dot(points, { ...channels, r: isNamed ? 4 : 2, fill: "on", fillOpacity: (d) => (isFound(d) ? 1 : 0.12), ...(isNamed ? rim : {}) }),
          words ? Plot.dot(points.filter(isFound), { ...channels, r: 6, stroke: "currentColor", fill: "on" }) : null,
          Plot.tip(points, Plot.pointer({ ...channels, title: (d) => `${d.name} on ${d.on}: ${percent(d.value)}%` })),
        ],
      }),
    );
    const found = words ? points.filter(isFound) : [];
    const lines = found.slice(0, LISTED_CLASSES).map((d) => element("li", {}, `${d.name} on ${d.on}: ${percent(d.value)}%`));
    const more = found.length > LISTED_CLASSES ? `, the first ${LISTED_CLASSES} are` : "";
    list.replaceChildren(...(words ? [element("p", {}, `${found.length} found${more}:`), element("ul", { class: "found" }, ...lines)] : []));
  };
  const change = (name) => (value) => ((state[name] = value), draw());
  const search = element("input", { type: "search", oninput: () => change("words")(search.value), placeholder: "part of a name" });
  section("classes").append(
    element(
      "div",
      { class: "controls" },
      choice("Of", facts.series.map((series, at) => [at, series.title]), change("series")),
      choice("Measure", Object.entries(measures), change("measure")),
      choice("Order", [["class", "by class"], ["confidence", "by confidence"]], change("order")),
      labelled("Find a class", search),
    ),
    place,
    list,
  );
  draw();
}
