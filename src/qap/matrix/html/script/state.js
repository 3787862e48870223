// What the reader asked for. It lives in the URL's hash, so that a link shows the same again.

class State {
  constructor(hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    const facet = (name, otherwise) => facetByKey.get(given.get(name)) ?? otherwise;
    const byVariety = [...variedAxes].sort((a, b) => b.slots.length - a.slots.length);
    this.view = given.get("view") === "pivot" && rowCount > 0 ? "pivot" : "list";
    this.text = given.get("text") ?? "";
    /** A facet's key, with "-" in front for backwards; "" is rowsInOrder. */
    this.sort = facetByKey.has(given.get("sort")?.replace(/^-/, "")) ? given.get("sort") : "";
    /** Ids of the cells whose details are shown. */
    this.open = new Set(given.getAll("open"));
    /** What the pivot shows. */
    this.rows = facet("rows", byVariety[0] ?? facets[0]);
    this.columns = facet("columns", byVariety[1] ?? facets[0]);
    this.side = sideNames.includes(given.get("side")) ? given.get("side") : sideNames[0];
    /** For each facet's key the texts to let through; all if there is none. */
    this.chosen = new Map(facets.map(({ key }) => [key, new Set(given.getAll(key))]));
  }

  get hash() {
    const hash = new URLSearchParams();
    const append = (name, value, usual) => value === usual || hash.append(name, value);
    for (const name of ["view", "text", "sort", "side"]) append(name, this[name], usual[name]);
    for (const name of ["rows", "columns"]) append(name, this[name]?.key, usual[name]?.key);
    for (const [key, texts] of this.chosen) for (const text of texts) hash.append(key, text);
    for (const id of this.open) hash.append("open", id);
    return `#${hash}`.replaceAll("%2F", "/");
  }

  get filtered() {
    return this.text !== "" || [...this.chosen.values()].some((texts) => texts.size > 0);
  }

  /** A copy with other fields and no cell open; each [facet, slot] lets that value through alone. */
  with(changes, ...only) {
    const copy = Object.assign(new State(this.hash), { open: new Set() }, changes);
    for (const [facet, slot] of only) copy.chosen.set(facet.key, new Set([facet.texts[slot]]));
    return copy;
  }

  /** A copy that no longer lets a facet's text through, or does so again. */
  toggled(facet, text) {
    const copy = this.with({});
    const texts = copy.chosen.get(facet.key);
    if (!texts.delete(text)) texts.add(text);
    return copy;
  }
}

const usual = new State("");

// Expectations are left out: their sentences and clauses name about everything.
const searched = [ids, ...Object.values(axes)];
for (const of of Object.values(sides)) {
  for (const [name, column] of Object.entries(of)) if (!name.startsWith("expected.")) searched.push(column);
}

/** For each row whether each word of `text` is somewhere in it. */
function holding(text) {
  const found = new Array(rowCount).fill(true);
  for (const word of text.toLowerCase().split(/\s+/).filter(Boolean)) {
    const holds = searched.map((column) => column.holding(word));
    for (let row = 0; row < rowCount; row++) {
      found[row] &&= searched.some((column, at) => holds[at][column.rows[row]]);
    }
  }
  return found;
}

/** The rows to show, sorted, and for each facet a count by slot that heeds all other filters. */
function select(state) {
  const found = holding(state.text);
  const wanted = facets.map((facet) => {
    const chosen = state.chosen.get(facet.key);
    return chosen.size ? facet.texts.map((text) => chosen.has(text)) : null;
  });
  const counts = facets.map((facet) => new Array(facet.texts.length).fill(0));
  const rows = [];
  for (const row of rowsInOrder) {
    if (!found[row]) continue;
    const slots = facets.map((facet) => facet.slot(row));
    const refusing = wanted.flatMap((by, at) => (by && !by[slots[at]] ? [at] : []));
    if (refusing.length === 0) {
      rows.push(row);
      counts.forEach((count, at) => count[slots[at]]++);
    } else if (refusing.length === 1) {
      const [at] = refusing;
      counts[at][slots[at]]++;
    }
  }
  if (state.sort) {
    const facet = facetByKey.get(state.sort.replace(/^-/, ""));
    const sign = state.sort.startsWith("-") ? -1 : 1;
    rows.sort((a, b) => sign * (facet.ranks[facet.slot(a)] - facet.ranks[facet.slot(b)]));
  }
  return { rows, counts };
}
