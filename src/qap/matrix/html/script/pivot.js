// The other view of the selected rows: counts of two facets against each other.

class Pivot {
  constructor(change) {
    this.table = element("pivot").querySelector("table");
    this.form = element("pivot-choice");
    const option = ({ key, label }) => h("option", { value: key }, label);
    for (const name of ["rows", "columns"]) this.form[name].append(...facets.map(option));
    this.form.side.append(...sideNames.map((side) => h("option", {}, side)));
    this.form.addEventListener("change", () => {
      const [rows, columns] = ["rows", "columns"].map((name) => facetByKey.get(this.form[name].value));
      change({ rows, columns, side: this.form.side.value });
    });
  }

  show(state, rows) {
    this.state = state;
    this.verdicts = verdicts[sideNames.indexOf(state.side)];
    this.form.rows.value = state.rows.key;
    this.form.columns.value = state.columns.key;
    this.form.side.value = state.side;
    const counts = this.count(rows);
    const down = [...state.rows.slots.filter((slot) => counts.has(`${slot},all`)), "all"];
    const across = [...state.columns.slots.filter((slot) => counts.has(`all,${slot}`)), "all"];
    const heads = across.map((slot) => this.head("col", state.columns, slot));
    const line = (row) => {
      const cells = across.map((column) => this.cell(row, column, counts.get(`${row},${column}`)));
      return h("tr", {}, this.head("row", state.rows, row), cells);
    };
    const corner = h("th", {}, `${state.rows.label} \\ ${state.columns.label}`);
    this.table.replaceChildren(
      h("thead", {}, h("tr", {}, corner, heads)),
      h("tbody", {}, down.map(line)),
    );
  }

  /** "row slot,column slot" to a count by verdict slot; "all" instead of a slot for sums. */
  count(rows) {
    const counts = new Map();
    for (const row of rows) {
      const verdict = this.verdicts.slot(row);
      for (const down of [this.state.rows.slot(row), "all"]) {
        for (const across of [this.state.columns.slot(row), "all"]) {
          const key = `${down},${across}`;
          if (!counts.has(key)) counts.set(key, []);
          counts.get(key)[verdict] = (counts.get(key)[verdict] ?? 0) + 1;
        }
      }
    }
    return counts;
  }

  head(scope, facet, slot) {
    if (slot === "all") return h("th", { scope }, "all");
    const href = this.state.with({}, [facet, slot]).hash;
    return h("th", { scope }, h("a", { href }, facet.texts[slot]));
  }

  cell(down, across, counts = []) {
    const where = [];
    if (down !== "all") where.push([this.state.rows, down]);
    if (across !== "all") where.push([this.state.columns, across]);
    const link = (slot) => {
      const verdict = this.verdicts.texts[slot];
      const href = this.state.with({ view: "list" }, ...where, [this.verdicts, slot]).hash;
      const count = grouped(counts[slot]);
      const said = `${count} ${verdict}`;
      const named = { title: said, "aria-label": said, "data-verdict": verdict };
      return h("a", { className: "verdict", href, ...named }, count);
    };
    const present = this.verdicts.slots.filter((slot) => counts[slot]);
    return h("td", {}, present.map(link));
  }
}
