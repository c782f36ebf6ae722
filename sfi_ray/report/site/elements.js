// Making elements. Text is only ever set as text, so no name of a run or a class can become markup.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function labelled(label, control) {
  return element("label", {}, element("span", {}, label), control);
}

/** A choice among [value, text] pairs; `onchange` hears the value. */
function choice(label, options, onchange, selected = "") {
  const select = element(
    "select",
    { onchange: () => onchange(select.value) },
    ...options.map(([value, text]) => element("option", { value, selected: String(value) === String(selected) }, text)),
  );
  return labelled(label, select);
}

function sortButton(text) {
  return element("button", { type: "button", class: "sort" }, text);
}

/** A table whose columns sort; a row is a list of {text, sort, ...attributes} or plain text. The label is not shown. */
function sortableTable(label, headings, rows, className = "") {
  const toCell = (cell, column) => {
    const { text, sort, ...attributes } = typeof cell === "object" ? cell : { text: cell };
    const content = Array.isArray(text) ? text : [text];
    const tag = column === 0 ? "th" : "td";
    const role = column === 0 ? { scope: "row" } : { "data-label": headings[column] };
    return element(tag, { ...role, "data-sort": sort, ...attributes }, ...content);
  };
  const table = element(
    "table",
    { class: `sortable ${className}` },
    element(
      "thead",
      {},
      element("tr", {}, ...headings.map((heading) => element("th", { scope: "col" }, sortButton(heading)))),
    ),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(toCell)))),
  );
  return scrolling(table, label);
}

/** A frame that scrolls, reachable by keyboard. */
function scrolling(content, label) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, content);
}

function section(id) {
  return document.querySelector(`#${id} .content`);
}

/** Shows a section that has something to show; the others stay hidden, with their link. */
function reveal(id) {
  document.getElementById(id).hidden = false;
  document.querySelector(`nav a[href="#${id}"]`).parentElement.hidden = false;
}

/** A box that fills when it is opened, so that a page with a hundred tables is quick. */
function disclosure(summary, fill, isOpen) {
  const box = element("details", { open: isOpen }, element("summary", {}, summary));
  const fillOnce = () => {
    if (!box.dataset.filled) {
      box.dataset.filled = "yes";
      box.append(...[fill()].flat());
    }
  };
  if (isOpen) fillOnce();
  box.addEventListener("toggle", () => box.open && fillOnce());
  return box;
}
