"use strict";
(() => {
  const body = document.querySelector(".files tbody");
  const rows = Array.from(body.rows);
  const order = document.getElementById("order");
  const find = document.getElementById("find");
  const said = document.getElementById("said");
  const heads = Array.from(document.querySelectorAll("th[data-by]"));
  const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const names = new Intl.Collator(undefined, { numeric: true });

  function sort(by, direction) {
    const sign = direction === "descending" ? -1 : 1;
    const sorted = rows.slice().sort((one, other) => {
      const a = one.dataset[by], b = other.dataset[by];
      if (by === "name") return sign * names.compare(a, b);
      // Files without a number come last, whichever way the others run.
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (Number(a) - Number(b));
    });
    body.append(...sorted);
    for (const head of heads) {
      if (head.dataset.by === by) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    }
    const value = by + "," + direction;
    if (Array.from(order.options).some((option) => option.value === value)) order.value = value;
    else order.selectedIndex = -1;
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => {
      const first = head.dataset.by === "spread" ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      sort(head.dataset.by, head.getAttribute("aria-sort") === first ? second : first);
    });
    head.replaceChildren(button);
  }
  order.addEventListener("change", () => sort(...order.value.split(",")));
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !text.get(row).includes(wanted);
      count += !row.hidden;
    }
    said.textContent = wanted ? count + " of " + rows.length + " files" : "";
  });
  document.documentElement.classList.add("scripted");
})();
