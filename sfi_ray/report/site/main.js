// The page: unpack the data, fill the sections, and let the reader choose the scheme.

const THEMES = ["auto", "light", "dark"];

function chooseTheme() {
  const button = document.getElementById("theme");
  let at = 0;
  button.addEventListener("click", () => {
    at = (at + 1) % THEMES.length;
    document.documentElement.dataset.theme = THEMES[at];
    button.textContent = `Colours: ${THEMES[at]}`;
  });
}

// Pixels of a sheet that are left in a box between its margins, and what print's smaller letters leave of a table's width.
const SHEET_WIDTH = 640;
const PRINTED_SHARE = 0.8;
const SMALLEST_ZOOM = 0.3;

/** Printed, a page shows what it would show opened, and tables that are wider than a sheet are made smaller. */
function prepareForPrint() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("main details:not([open])")];
    for (const box of opened) {
      box.open = true;
      box.dispatchEvent(new Event("toggle")); // the browser's own comes after the page is printed
    }
    for (const table of document.querySelectorAll(".scroll table")) {
      const share = table.classList.contains("pictures") ? 1 : PRINTED_SHARE;
      const zoom = SHEET_WIDTH / (table.scrollWidth * share);
      table.style.zoom = Math.max(SMALLEST_ZOOM, Math.min(1, zoom));
    }
  });
  addEventListener("afterprint", () => {
    for (const box of opened) box.open = false;
    for (const table of document.querySelectorAll(".scroll table")) table.style.zoom = "";
  });
}

// What ends with a drawing of the page, such as its listeners.
let drawing = new AbortController();

/** Fills the sections, in the place of what an earlier drawing put there. */
async function draw() {
  const facts = await unpack(document.getElementById("data").textContent);
  drawing.abort();
  drawing = new AbortController();
  document.querySelector("dialog")?.remove();
  for (const content of document.querySelectorAll("main .content")) {
    content.replaceChildren();
    content.parentElement.hidden = true;
  }
  showLead(facts);
  const cells = new Cells(facts);
  showMatrices(facts);
  showBest(facts);
  showClasses(facts);
  if (cells.count) {
    const filters = makeFilters(cells, facts);
    const dialog = showGallery(cells, filters);
    showCellsTable(cells, filters, dialog);
    filters.restore();
    showPairs(cells, facts, dialog);
    openTiles(cells, dialog);
  }
  showTrajectories(facts);
  showSuccess(facts);
  showSpending(facts);
  showPositions(facts);
  showFailures(facts);
}

/** A picture of the first screen opens its cell. */
function openTiles(cells, dialog) {
  const tiles = [...document.querySelectorAll("#found .tile")];
  const cellOf = (tile) => {
    for (let cell = 0; cell < cells.count; cell++) {
      if (cells.at("run", cell) === Number(tile.dataset.run) && cells.at("cell_index", cell) === Number(tile.dataset.cell)) return cell;
    }
    return -1;
  };
  const found = tiles.map(cellOf);
  const shown = found.filter((cell) => cell >= 0);
  tiles.forEach((tile, at) => {
    if (found[at] >= 0) tile.onclick = () => dialog.open(shown.indexOf(found[at]), shown);
  });
}

async function start() {
  chooseTheme();
  prepareForPrint();
  document.addEventListener("click", address.follow);
  await draw();
  address.show(address.read().place);
  document.documentElement.dataset.state = "ready";
}

start().catch((error) => {
  const message = `This page could not be shown: ${error.message}. It needs a browser of 2023 or later.`;
  document.querySelector("main").prepend(element("p", { class: "problem", role: "alert" }, message));
  document.documentElement.dataset.state = "failed";
  throw error;
});
