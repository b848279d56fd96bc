"use strict";
// A click on a column's head sorts by it, a second one the other way round; empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const [p, q] = [x, y].map((text) => Number(text.replace("inf", "Infinity")));
      const difference = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p === q ? 0 : p < q ? -1 : 1;
      return down ? -difference : difference;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(order));
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }));
}
