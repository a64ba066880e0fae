// Columns of tables can be sorted: by numbers where all their cells begin with one, else by words.
// Averages stay below.
const number = cell => {
  const text = cell.textContent.replace(/−/g, "-").replace(/(\d),(?=\d{3})/g, "$1");
  const found = cell.dataset.sort ?? text.match(/^[#(≥≤<> ]*([+-]?\d+(\.\d+)?(e[+-]?\d+)?)(?!\w)/i)?.[1];
  return found === undefined ? NaN : Number(found);
};
const isEmpty = cell => cell.textContent === "–";
const words = (a, b) => a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
const comparing = (cells, sign) => {
  const numeric = cells.every(cell => isEmpty(cell) || !Number.isNaN(number(cell)));
  return (a, b) => {
    if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b);
    return sign * ((numeric && number(a) - number(b)) || words(a, b));
  };
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
      const before = comparing(sorted.map(row => row.cells[column]), sign);
      sorted.sort((a, b) => before(a.cells[column], b.cells[column]));
      body.append(...sorted, ...rows.filter(row => row.classList.contains("summary")));
    });
  });
}
