// Columns of tables can be sorted: by numbers where there are any, else by words. Averages stay below.
const number = cell => {
  const found = cell.dataset.sort ?? cell.textContent.replace(/−/g, "-").match(/-?\d+(\.\d+)?(e[+-]?\d+)?/i)?.[0];
  return found === undefined ? NaN : Number(found);
};
const compare = (a, b, sign) => {
  const empty = cell => cell.textContent === "–";
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  const [x, y] = [number(a), number(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y) && x !== y) return sign * (x - y);
  return sign * a.textContent.localeCompare(b.textContent);
};
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      // Numbers begin with the highest, words with the first.
      const first = head.classList.contains("words") ? "ascending" : "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach(each => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const rows = [...body.rows], sign = order === "ascending" ? 1 : -1;
      const sorted = rows.filter(row => !row.classList.contains("summary"));
      sorted.sort((a, b) => compare(a.cells[column], b.cells[column], sign));
      body.append(...sorted, ...rows.filter(row => row.classList.contains("summary")));
    });
  });
}
