// What there is: the cells as page.py packed them, and the facets to filter them by.

const NOTHING = "—";

const packed = JSON.parse(document.getElementById("cells").textContent);

function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value === null || typeof value !== "object") return value;
  if (value.words) return value.words.map((number) => packed.words[number]).join("");
  return Object.fromEntries(Object.entries(value.object).map(([key, item]) => [key, unpack(item)]));
}

/** A value for people to read. */
function show(value) {
  if (value === undefined || value === null) return NOTHING;
  if (value === true) return "yes";
  if (value === false) return "no";
  if (value === "") return "none";
  if (Array.isArray(value)) return value.map(show).join(", ") || "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** The strings in a value, at any depth. */
function strings(value) {
  if (typeof value === "string") return [value];
  return value !== null && typeof value === "object" ? Object.values(value).flatMap(strings) : [];
}

/** One field of all rows. A value's number is its place among the distinct ones. */
class Column {
  constructor({ values, rows }) {
    this.packed = values;
    this.rows = rows;
    this.unpacked = [];
  }

  /** The row's value, or undefined. */
  at(row) {
    return this.rows[row] < 0 ? undefined : this.value(this.rows[row]);
  }

  value(number) {
    return (this.unpacked[number] ??= unpack(this.packed[number]));
  }

  /** For each value whether one of its strings holds `needle`, which is in lower case. */
  holding(needle) {
    this.lower ??= this.packed.map((_, number) => strings(this.value(number)).join("\n").toLowerCase());
    return this.lower.map((text) => text.includes(needle));
  }
}

const unpackColumns = (from) =>
  Object.fromEntries(Object.entries(from).map(([name, column]) => [name, new Column(column)]));

const ids = new Column(packed.ids);
const rowCount = ids.rows.length;
const axes = unpackColumns(packed.axes);
const sides = Object.fromEntries(
  Object.entries(packed.sides).map(([side, fields]) => [side, unpackColumns(fields)]),
);
const sideNames = Object.keys(sides);
const empty = new Column({ values: [], rows: new Array(rowCount).fill(-1) });

/** A row's field on one side, or undefined. */
const field = (side, name, row) => sides[side][name]?.at(row);

/** The fields of a row's object on one side, such as "seen", by their own names. */
function fields(side, object, row) {
  const found = {};
  for (const [name, column] of Object.entries(sides[side])) {
    if (!name.startsWith(`${object}.`)) continue;
    const value = column.at(row);
    if (value !== undefined) found[name.slice(object.length + 1)] = value;
  }
  return found;
}

/** A column to filter, sort and pivot by. Slot 0 stands for "no value", slot n + 1 for value n. */
class Facet {
  /** `order`: texts in the order in which to show them; others follow in order of appearance. */
  constructor(key, label, column, order = []) {
    this.key = key;
    this.label = label;
    this.column = column;
    this.texts = [NOTHING, ...column.packed.map((_, number) => show(column.value(number)))];
    /** For each slot where it comes among the others. */
    this.ranks = this.texts.map((text, slot) => {
      if (slot === 0) return Infinity;
      const known = order.indexOf(text);
      return known < 0 ? order.length + slot : known;
    });
    /** The slots that occur, in this order. */
    this.slots = [...new Set(column.rows.map((number) => number + 1))];
    this.slots.sort((a, b) => this.ranks[a] - this.ranks[b]);
  }

  get varied() {
    return this.slots.length > 1;
  }

  slot(row) {
    return this.column.rows[row] + 1;
  }

  text(row) {
    return this.texts[this.slot(row)];
  }
}

const ofSides = (name, order) =>
  sideNames.map((side) => new Facet(`${side}.${name}`, `${side} ${name}`, sides[side][name] ?? empty, order));

const verdicts = ofSides("verdict", packed.verdicts);
const everyAxis = Object.entries(axes).map(([name, column]) => new Facet(`axes.${name}`, name, column));
const variedAxes = everyAxis.filter((axis) => axis.varied);
const gaps = ofSides("gap").filter((gap) => gap.varied);
const facets = [...verdicts, ...variedAxes, ...gaps];
const facetByKey = new Map(facets.map((facet) => [facet.key, facet]));

/** All rows: by the worst verdict of any side, then by that of the first side, of the second... */
const rowsInOrder = (() => {
  const keys = Array.from({ length: rowCount }, (_, row) => {
    const each = verdicts.map((facet) => facet.ranks[facet.slot(row)]);
    return [Math.min(...each), ...each];
  });
  const compare = (a, b) => {
    const differs = keys[a].findIndex((rank, at) => rank !== keys[b][at]);
    return differs < 0 ? a - b : keys[a][differs] - keys[b][differs];
  };
  return [...keys.keys()].sort(compare);
})();
