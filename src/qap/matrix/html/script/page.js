// The filters above the views, and what ties all of it to the state.

/** A facet as a button that opens a list of its values, each with a box to tick and a count. */
class Chip {
  constructor(facet, change) {
    this.facet = facet;
    this.summary = h("summary");
    this.choices = facet.slots.map((slot) => {
      const text = facet.texts[slot];
      const box = h("input", { type: "checkbox", onchange: () => change(facet, text) });
      const count = h("span", { className: "count" });
      const shown = verdicts.includes(facet) && slot > 0 ? pill(text) : text;
      return { slot, text, box, count, label: h("label", {}, box, h("span", {}, shown), count) };
    });
    const values = h("div", { className: "values" }, this.choices.map(({ label }) => label));
    this.element = h("details", { className: "chip", name: "chip" }, this.summary, values);
    this.element.addEventListener("toggle", () => keepOnScreen(values));
  }

  show(chosen, counts) {
    const texts = [...chosen];
    const named = texts.length > 2 ? `${texts.length} of ${this.choices.length}` : texts.join(", ");
    this.summary.textContent = named ? `${this.facet.label}: ${named}` : this.facet.label;
    this.element.classList.toggle("chosen", texts.length > 0);
    for (const { slot, text, box, count, label } of this.choices) {
      box.checked = chosen.has(text);
      count.textContent = grouped(counts[slot]);
      label.classList.toggle("nothing", counts[slot] === 0);
    }
  }
}

/** Shift what opened beyond the window's right edge. */
function keepOnScreen(box) {
  box.style.left = "0";
  const beyond = box.getBoundingClientRect().right + 8 - document.documentElement.clientWidth;
  if (beyond > 0) box.style.left = `${-beyond}px`;
}

let state;
const list = new List();
const pivot = new Pivot((changes) => go(state.with(changes)));
const tick = (facet, text) => go(state.toggled(facet, text));
const chips = facets.filter((facet) => facet.varied).map((facet) => new Chip(facet, tick));

/** Keep the state in the hash without a new entry in the history. */
function remember(kept) {
  history.replaceState(null, "", kept.hash);
}

function present(next) {
  state = next;
  const { rows, counts } = select(state);
  for (const chip of chips) chip.show(state.chosen.get(chip.facet.key), counts[facets.indexOf(chip.facet)]);
  for (const view of ["list", "pivot"]) {
    const shown = view === state.view;
    const link = element(`to-${view}`);
    element(view).hidden = !shown;
    link.href = state.with({ view }).hash;
    if (shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const text = element("text");
  if (text.value !== state.text) text.value = state.text;
  element("shown").textContent = `${grouped(rows.length)} of ${grouped(rowCount)} cells`;
  element("clear").href = state.with({ text: "", chosen: new Map() }).hash;
  element("clear").hidden = !state.filtered;
  if (state.view === "list") list.show(state, rows);
  else pivot.show(state, rows);
}

function go(next) {
  present(next);
  remember(next);
}

function start() {
  const constant = everyAxis.filter((axis) => !axis.varied && rowCount > 0);
  const said = constant.map((axis) => `${axis.label} ${axis.text(0)}`).join(", ");
  element("constant").textContent = said && `The same in every cell: ${said}.`;
  element("chips").append(...chips.map((chip) => chip.element));
  element("text").addEventListener("input", ({ target }) => go(state.with({ text: target.value })));
  window.addEventListener("hashchange", () => present(new State(location.hash)));
  document.addEventListener("click", ({ target }) => closeChips((chip) => !chip.contains(target)));
  document.addEventListener("keydown", pressed);
  document.querySelector("main").hidden = false;
  present(new State(location.hash));
}

function closeChips(which = () => true) {
  for (const { element } of chips) if (which(element)) element.open = false;
}

/** "/" goes to the search field, Escape closes the list of a chip. */
function pressed(event) {
  if (event.key === "Escape") {
    const open = chips.find(({ element }) => element.open);
    closeChips();
    open?.summary.focus();
  } else if (event.key === "/" && !event.target.matches("input, select")) {
    event.preventDefault();
    element("text").focus();
  }
}

start();
