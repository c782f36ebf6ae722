// A page that is served while its run goes on: it asks for the run's progress, and draws itself anew when rows came.

const POLL_MILLISECONDS = 2000;

/** Shows a bar and a line on what the run does. */
function showProgress({ line, share }) {
  const bar = share === null ? null : element("progress", { value: share, max: 1, "aria-label": "Searched cells" });
  document.getElementById("live").replaceChildren(...[bar, element("span", {}, line)].filter(Boolean));
}

/** Whether the reader is in the middle of something that a new drawing would end. */
const isBusy = () => document.querySelector("dialog[open]") || document.activeElement?.matches("main select, main input");

/** Takes the newest page: the parts that the server made are replaced, and the program draws the others. */
async function renew() {
  const fresh = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
  if (fresh.body.dataset.page !== document.body.dataset.page) return location.reload();
  const height = scrollY;
  for (const part of document.querySelectorAll("[data-renew]")) {
    part.replaceWith(document.importNode(fresh.getElementById(part.id), true));
  }
  document.body.dataset.mark = fresh.body.dataset.mark;
  const data = document.getElementById("data");
  if (data) {
    data.textContent = fresh.getElementById("data").textContent;
    await draw();
  }
  scrollTo({ top: height, behavior: "instant" });
}

async function follow() {
  const began = performance.now();
  try {
    const progress = await (await fetch("/progress")).json();
    if (progress.mark && progress.mark !== document.body.dataset.mark && !isBusy()) await renew();
    showProgress(progress);
  } catch {
    showProgress({ line: "The server of this page has ended; what is shown stays.", share: null });
  }
  // A large page is drawn less often.
  setTimeout(follow, Math.max(POLL_MILLISECONDS, 5 * (performance.now() - began)));
}

follow();
