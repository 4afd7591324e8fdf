"use strict";
(() => {
  const table = document.getElementById("images");
  const field = document.getElementById("words");
  if (table && field) {
    const rows = [...table.tBodies[0].rows];
    const count = document.getElementById("count");
    const none = document.getElementById("none");
    const search = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const hit = words.every((word) => row.dataset.words.includes(word));
        row.hidden = !hit;
        shown += hit ? 1 : 0;
      }
      count.textContent = words.length ? `${shown} of ${rows.length}` : "";
      none.hidden = shown > 0 || rows.length === 0;
      history.replaceState(null, "", words.length ? `#${encodeURIComponent(field.value)}` : "#");
    };
    field.addEventListener("input", search);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { field.value = ""; search(); }
    });
    try { field.value = decodeURIComponent(location.hash.slice(1)); } catch { field.value = ""; }
    if (field.value === "main") { field.value = ""; }
    if (field.value) { search(); }

    const text = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
    const value = (row, at) => row.cells[at] ? row.cells[at].dataset.value ?? row.cells[at].textContent.trim() : "";
    for (const button of table.tHead.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        const head = button.closest("th");
        const first = button.dataset.first ?? "ascending";
        const other = { ascending: "descending", descending: "ascending" };
        const before = head.getAttribute("aria-sort");
        const order = before ? other[before] : first;
        for (const each of table.tHead.querySelectorAll("th")) { each.removeAttribute("aria-sort"); }
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const compare = button.dataset.sort === "number"
          ? (a, b) => Number(value(a, head.cellIndex)) - Number(value(b, head.cellIndex))
          : (a, b) => text.compare(value(a, head.cellIndex), value(b, head.cellIndex));
        rows.sort((a, b) => sign * compare(a, b));
        table.tBodies[0].append(...rows);
      });
    }
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const lines = button.parentElement.querySelector("code");
      let done = true;
      try {
        await navigator.clipboard.writeText(lines.textContent);
      } catch {
        // Neither a file nor plain http is a secure context: the old way still works there.
        getSelection().selectAllChildren(lines);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
