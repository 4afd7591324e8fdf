"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const after = (parent, tag, name, text) => {
    const made = parent.appendChild(document.createElement(tag));
    made.className = name;
    made.textContent = text;
    return made;
  };

  // What needs a script is hidden where there is none.
  for (const each of document.querySelectorAll(".bar, button.copy")) { each.hidden = false; }

  const units = [["year", 31557600], ["month", 2629800], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60]];
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const ages = (within) => {
    for (const each of within.querySelectorAll("time")) {
      const seconds = (Date.parse(each.dateTime) - Date.now()) / 1000;
      if (!Number.isFinite(seconds)) { continue; }
      const [unit, length] = units.find(([, length]) => Math.abs(seconds) >= length) ?? units.at(-1);
      each.title = each.dateTime;
      each.insertAdjacentText("beforeend", ", " + relative.format(Math.round(seconds / length), unit));
    }
  };
  ages(document);

  // --- packages with versions: `transformers>=4.50` ---
  const RULE = /^([\w.+-]+)(>=|<=|==|!=|~=|>|<)([\w.+!*:~-]+)$/;
  const numbers = (text) => {
    // Debian has an epoch before, and a revision behind.
    const plain = text.replace(/^\d+:/, "").replace(/-[^-]*$/, "");
    const release = /^\d+(\.\d+)*/.exec(plain);
    if (!release) { return null; }
    const early = /^[._-]?(a|b|c|rc|dev|alpha|beta|pre)/.test(plain.slice(release[0].length));
    return { parts: release[0].split(".").map(Number), early };
  };
  const compare = (a, b) => {
    for (let at = 0; at < Math.max(a.parts.length, b.parts.length); at += 1) {
      const by = (a.parts[at] ?? 0) - (b.parts[at] ?? 0);
      if (by) { return by; }
    }
    return Number(b.early) - Number(a.early);
  };
  const fits = (version, sign, wanted) => {
    const has = numbers(version), asked = numbers(wanted);
    if (!has || !asked) { return false; }
    const by = compare(has, asked);
    const same = asked.parts.slice(0, -1).every((part, at) => part === (has.parts[at] ?? 0));
    return { ">=": by >= 0, "<=": by <= 0, "==": by === 0, "!=": by !== 0, ">": by > 0, "<": by < 0, "~=": by >= 0 && same }[sign];
  };
  const words = (text) => text.toLowerCase().replaceAll("≥", ">=").replaceAll("≤", "<=").replaceAll("≠", "!=")
    .replace(/\s*(>=|<=|==|!=|~=|>|<)\s*/g, "$1").split(/\s+/).filter(Boolean);

  // --- the table of images ---
  const table = find("images");
  if (table) {
    const field = find("words"), rows = [...table.tBodies[0].rows];
    const packages = JSON.parse(find("packages").textContent);
    const known = Object.entries(packages.known).map(([name, versions]) =>
      ({ name, canonical: name.toLowerCase().replace(/[-_.]+/g, "-"), versions: Object.entries(versions) }));
    const said = rows.map((row) => after(row.cells[0], "span", "about match", ""));
    const texts = rows.map((row) => row.dataset.words);

    // For a word, the rows that have it; those that have it as a package, with what that is.
    const matches = (word) => {
      const [, name, sign, version] = RULE.exec(word) ?? [];
      const plain = word.replace(/[>=<!~].*$/, "") || word;
      const hit = new Map();
      texts.forEach((text, at) => { if (!sign && text.includes(plain)) { hit.set(at, []); } });
      const wanted = (name ?? plain).replace(/[-_.]+/g, "-");
      for (const each of wanted.length > 1 ? known : []) {
        if (sign ? each.canonical !== wanted : !each.canonical.startsWith(wanted)) { continue; }
        for (const [has, list] of each.versions) {
          if (sign && !fits(has, sign, version)) { continue; }
          for (const at of packages.rows[list]) {
            if (!hit.has(at)) { hit.set(at, []); }
            hit.get(at).push(`${each.name} ${has}`);
          }
        }
      }
      return hit;
    };
    const search = () => {
      const hits = words(field.value).map(matches);
      let shown = 0;
      rows.forEach((row, at) => {
        row.hidden = !hits.every((hit) => hit.has(at));
        shown += row.hidden ? 0 : 1;
        const found = row.hidden ? [] : [...new Set(hits.flatMap((hit) => hit.get(at)))];
        const more = found.length > 3 ? `, and ${found.length - 3} more` : "";
        said[at].textContent = found.length ? `has ${found.slice(0, 3).join(", ")}${more}` : "";
      });
      find("count").textContent = hits.length ? `${shown} of ${rows.length}` : "";
      find("none").hidden = shown > 0;
      table.parentElement.hidden = shown === 0;
      const hash = hits.length ? `#q=${encodeURIComponent(field.value)}` : location.pathname;
      try { history.replaceState(null, "", hash); } catch { /* too often in a short time: the address waits */ }
    };
    field.addEventListener("input", search);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { field.value = ""; search(); }
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && document.activeElement !== field) { event.preventDefault(); field.focus(); }
    });
    const asked = () => {
      if (!location.hash.startsWith("#q=")) { return; }
      try { field.value = decodeURIComponent(location.hash.slice(3)); } catch { return; }
      search();
    };
    addEventListener("hashchange", asked);
    asked();

    const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
    const value = (row, at) => row.cells[at] ? row.cells[at].dataset.value ?? row.cells[at].textContent.trim() : "";
    for (const head of table.tHead.querySelectorAll("th[data-sort]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const way = before ? (before === "ascending" ? "descending" : "ascending") : head.dataset.first ?? "ascending";
        for (const each of table.tHead.querySelectorAll("th")) { each.removeAttribute("aria-sort"); }
        head.setAttribute("aria-sort", way);
        const sign = way === "ascending" ? 1 : -1, at = head.cellIndex;
        const keyed = rows.map((row) => [value(row, at), row]);
        // What isn't known comes last, whichever way.
        keyed.sort(([a], [b]) => (a === "") - (b === "")
          || sign * (head.dataset.sort === "number" ? a - b : order.compare(a, b)));
        table.tBodies[0].append(...keyed.map(([, row]) => row));
      });
    }
  }

  // --- the list of packages ---
  const filter = find("filter");
  if (filter) {
    const lines = [...find("list").tBodies[0].rows];
    const names = lines.map((line) => line.cells[0].textContent.toLowerCase());
    filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      let shown = 0;
      lines.forEach((line, at) => {
        line.hidden = !names[at].includes(wanted);
        shown += line.hidden ? 0 : 1;
      });
      find("filtered").textContent = wanted ? `${shown} of ${lines.length}` : "";
    });
  }

  // --- copying ---
  // Plain http is no secure context and has no clipboard, and a file may be refused it: the old way works there.
  const copied = (text) => {
    const box = document.createElement("textarea");
    box.value = text;
    box.readOnly = true;
    box.className = "offscreen";
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    return done;
  };
  for (const button of document.querySelectorAll("button.copy")) {
    const label = button.textContent;
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      const text = button.dataset.text ?? button.parentElement.querySelector("code").textContent;
      let done = true;
      try { await navigator.clipboard.writeText(text); } catch { done = copied(text); button.focus(); }
      button.textContent = done ? "Copied" : "Select it by hand";
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  }
})();
