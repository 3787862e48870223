// One view of the selected rows: a table in which each row opens in place.

// Rows come as the reader scrolls; many at once for who wants to print or to search in the page.
const ROWS_AT_A_TIME = 100;
const MANY_ROWS = 1000;

class List {
  constructor() {
    [this.head, this.body] = element("list").querySelectorAll("thead, tbody");
    this.columns = [
      ...verdicts.map((facet, at) => [facet, sideNames[at]]),
      ...variedAxes.map((facet) => [facet, facet.label]),
    ];
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.body.addEventListener("keydown", (event) => this.pressed(event));
    element("more-rows").addEventListener("click", () => this.more(MANY_ROWS));
    const reached = ([end]) => end.isIntersecting && this.more(ROWS_AT_A_TIME);
    new IntersectionObserver(reached).observe(element("more"));
  }

  show(state, rows) {
    this.state = state;
    const open = rows.filter((row) => state.open.has(ids.at(row)));
    this.rows = [...open, ...rows.filter((row) => !state.open.has(ids.at(row)))];
    this.head.replaceChildren(this.heading());
    this.body.replaceChildren();
    this.shown = 0;
    this.more(ROWS_AT_A_TIME);
    element("none").hidden = rows.length > 0;
  }

  heading() {
    const head = ([facet, label]) => {
      const [up, down] = [facet.key, `-${facet.key}`];
      const sorted = { [up]: "ascending", [down]: "descending" }[this.state.sort] ?? "none";
      const next = { none: up, ascending: down, descending: "" }[sorted];
      const href = this.state.with({ sort: next }).hash;
      const mayBreak = label.split(/(?<=_)/).flatMap((part) => [part, h("wbr")]);
      return h("th", { scope: "col", "aria-sort": sorted }, h("a", { href, title: "Sort" }, mayBreak));
    };
    return h("tr", {}, h("th", {}), this.columns.map(head));
  }

  more(count) {
    const next = this.rows.slice(this.shown, this.shown + count);
    this.body.append(...next.flatMap((row) => this.row(row)));
    this.shown += next.length;
    const left = this.rows.length - this.shown;
    element("more").hidden = left === 0;
    element("rows-shown").textContent = `The first ${grouped(this.shown)} of ${grouped(this.rows.length)}.`;
    element("more-rows").textContent = `Show ${grouped(Math.min(left, MANY_ROWS))} more`;
  }

  row(row) {
    const id = ids.at(row);
    const open = this.state.open.has(id);
    const named = { "aria-expanded": open, "aria-label": id };
    const toggle = h("button", { type: "button", className: "toggle", ...named });
    const axis = (facet) => h("td", { "data-label": facet.label }, facet.text(row));
    const verdict = (facet, at) => {
      const gap = field(sideNames[at], "gap", row);
      const why = gap ? [" ", h("small", {}, gap)] : [];
      return h("td", { "data-label": sideNames[at] }, pill(facet.text(row)), why);
    };
    const cells = [h("td", {}, toggle), ...verdicts.map(verdict), ...variedAxes.map(axis)];
    const line = h("tr", { className: "cell", title: id, "data-row": row }, cells);
    return open ? [line, this.details(row)] : [line];
  }

  details(row) {
    return h("tr", { className: "opened" }, h("td", { colSpan: 1 + this.columns.length }, details(row)));
  }

  toggle(line) {
    const row = Number(line.dataset.row);
    const open = !this.state.open.delete(ids.at(row));
    if (open) {
      this.state.open.add(ids.at(row));
      line.after(this.details(row));
    } else {
      line.nextElementSibling.remove();
    }
    line.querySelector(".toggle").setAttribute("aria-expanded", open);
    remember(this.state);
  }

  clicked(event) {
    const line = event.target.closest("tr.cell");
    if (line && getSelection().isCollapsed) this.toggle(line);
  }

  /** Arrow keys go from cell to cell. */
  pressed(event) {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (!step || !event.target.matches(".toggle")) return;
    let line = event.target.closest("tr")[step];
    while (line && !line.matches(".cell")) line = line[step];
    line?.querySelector(".toggle").focus();
    event.preventDefault();
  }
}
