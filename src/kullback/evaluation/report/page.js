"use strict";
// Sorts a table by the column whose heading is pressed, and keeps the rows that have a text; without it all stands there.
const value = cell => cell.dataset.value ?? cell.textContent.trim().replace(/^< /, "");
const numeric = text => parseFloat(text);
const wordy = cells => !cells.some(cell => !Number.isNaN(numeric(value(cell))));
for (const table of document.querySelectorAll("table[data-sort]")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], first = [...body.rows];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const words = column === 0 || wordy(first.map(row => row.cells[column]));
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const down = before === null ? !words : before === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => words ? value(row.cells[column]) : numeric(value(row.cells[column]));
      const order = (a, b) => words ? a.localeCompare(b, "en", {numeric: true}) : a - b;
      const rows = first.map(row => [key(row), row]).sort(([a], [b]) => {
        const unknown = Number.isNaN(a) - Number.isNaN(b);  // these stand last, up or down
        return unknown || (down ? -order(a, b) : order(a, b));
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
  if ("filter" in table.dataset && first.length > 8) {
    const label = document.createElement("label"), field = document.createElement("input");
    label.className = "filter";
    field.type = "search";
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      first.forEach(row => { row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted); });
    });
    label.append("Filter ", field);
    (table.closest(".side") ?? table.parentElement).before(label);
  }
}
