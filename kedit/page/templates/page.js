"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  // What has no value stands last, whichever way is sorted.
  const ordered = (items, key, sign) => items
    .map((item) => [item, key(item)])
    .sort(([, a], [, b]) => (a === "") - (b === "") || (a === "" ? 0 : sign * compare(a, b)))
    .map(([item]) => item);

  function sortTable(table, heading, column) {
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    all("th[aria-sort]", table).forEach((one) => one.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const body = table.tBodies[0];
    body.append(...ordered([...body.rows], (row) => row.cells[column].dataset.sort, sign));
  }

  for (const table of all("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortTable(table, heading, column));
      heading.append(button);
    });
  }

  const place = document.getElementById("cards");
  if (place) {
    const cards = [...place.children];
    const [search, layer, sort, found] = ["search", "layer", "sort", "found"].map((id) => document.getElementById(id));
    for (const number of ordered([...new Set(cards.map((card) => card.dataset.layer))], (one) => one, 1)) {
      layer.append(new Option(number, number));
    }
    const show = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const card of cards) {
        const fits = words.every((word) => card.dataset.text.includes(word));
        card.hidden = !fits || (layer.value !== "" && card.dataset.layer !== layer.value);
      }
      found.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} neurons`;
    };
    const arrange = () => {
      const key = sort.value;
      const byPlace = ordered(cards, (card) => card.dataset.place, 1);
      const start = key === "layer" ? ordered(byPlace, (card) => card.dataset.index, 1) : byPlace;
      place.append(...ordered(start, (card) => card.dataset[key], key.startsWith("score") ? -1 : 1));
    };
    search.addEventListener("input", show);
    layer.addEventListener("change", show);
    sort.addEventListener("change", arrange);
    all(".tools").forEach((tools) => { tools.hidden = false; });
    show();
  }

  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  theme.hidden = false;
  label();

  // On paper nothing can be opened.
  const closed = new Set();
  addEventListener("beforeprint", () => all("details:not([open])").forEach((one) => {
    closed.add(one);
    one.open = true;
  }));
  addEventListener("afterprint", () => {
    closed.forEach((one) => { one.open = false; });
    closed.clear();
  });
})();
