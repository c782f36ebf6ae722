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

/** Printed, a page shows what it would show opened. */
function openForPrint() {
  addEventListener("beforeprint", () => {
    for (const box of document.querySelectorAll("main details")) box.open = true;
  });
}

async function start() {
  chooseTheme();
  openForPrint();
  const facts = await unpack(document.getElementById("data").textContent);
  const cells = new Cells(facts);
  showMatrices(facts);
  showBest(facts);
  showClasses(facts);
  if (cells.count) {
    const filters = makeFilters(cells, facts);
    const dialog = showGallery(cells, filters);
    showCellsTable(cells, filters, dialog);
    filters.update();
    showPairs(cells, facts, dialog);
  }
  showCourses(facts);
  showSuccess(facts);
  showSpending(facts);
  showPositions(facts);
  showFailures(facts);
  document.documentElement.dataset.state = "ready";
}

start().catch((error) => {
  const message = `This page could not be shown: ${error.message}. It needs a browser of 2023 or later.`;
  document.querySelector("main").prepend(element("p", { class: "problem", role: "alert" }, message));
  document.documentElement.dataset.state = "failed";
  throw error;
});
