// A cell opened in place: what was expected and why, what each side did, how to do it again.

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

const sidesOf = (row) => sideNames.filter((side) => field(side, "verdict", row) !== undefined);

/** The row's sides, those of the same value together. */
function alike(row, valueOf) {
  const groups = [];
  for (const side of sidesOf(row)) {
    const value = valueOf(side);
    const group = groups.find((one) => same(one.value, value));
    if (group) group.names.push(side);
    else groups.push({ names: [side], value });
  }
  return groups;
}

function judgement(side, row) {
  const of = (name) => field(side, name, row);
  const [skip, gap, seconds] = ["skip", "gap", "seconds"].map(of);
  const said = [];
  if (skip) said.push(`skipped: ${skip}`);
  if (gap) said.push(`known gap: ${gap}`);
  if (seconds !== undefined) said.push(`${Number((1000 * seconds).toPrecision(2))} ms`);
  if (of("fresh")) said.push("in a QEMU started for it");
  return h(
    "div",
    { className: "judgement" },
    h("p", {}, h("b", {}, side), " ", pill(of("verdict")), " ", h("small", {}, said.join(" · "))),
    h("ul", {}, (of("problems") ?? []).map((problem) => h("li", {}, problem))),
  );
}

/** A field for people to read; features are bit numbers, which get their names. */
function showField(name, value) {
  const named = (bit) => [bit, packed.feature_bits[bit] ?? []].flat().join(" ");
  return show(name === "features" && Array.isArray(value) ? value.map(named) : value);
}

/** A line for each field that sides of the same expectation expect or saw. */
function comparison(row, expected, sides) {
  const seen = sides.map((side) => fields(side, "seen", row));
  const observed = (name, value) => {
    const differs = name in expected && value !== undefined && !same(value, expected[name]);
    return h("td", { className: differs ? "differs" : "" }, showField(name, value));
  };
  const line = (name) => {
    const cells = seen.some((one) => name in one) ? seen.map((one) => observed(name, one[name])) : [];
    const width = 1 + seen.length - cells.length;
    const expectation = h("td", { colSpan: width }, showField(name, expected[name]));
    return h("tr", {}, h("th", { scope: "row" }, name.replaceAll("_", " ")), expectation, cells);
  };
  const names = new Set([expected, ...seen].flatMap(Object.keys));
  const heads = ["", "expected", ...sides.map((side) => `seen on ${side}`)];
  return h(
    "table",
    { className: "comparison" },
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, [...names].map(line)),
  );
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

/** Text as it is, to copy, under a heading; it names the sides unless that is all. */
function verbatim(heading, sides, text) {
  const button = h("button", { type: "button", onclick: () => copy(text, button) }, "Copy");
  const whose = sides.length < sideNames.length ? `, ${sides.join(" and ")}` : "";
  return [
    h("h3", {}, heading + whose),
    h("div", { className: "verbatim" }, h("pre", {}, text), button),
  ];
}

function verbatims(heading, row, name) {
  const groups = alike(row, (side) => field(side, name, row)).filter(({ value }) => value);
  return groups.flatMap(({ names, value }) => verbatim(heading, names, [value].flat().join("\n")));
}

function details(row) {
  const id = ids.at(row);
  const link = h("a", { href: usual.with({ open: new Set([id]) }).hash }, "link");
  const expectations = alike(row, (side) => fields(side, "expected", row));
  return h(
    "div",
    { className: "details" },
    h("p", { className: "id" }, h("code", {}, id), " ", link),
    h("div", { className: "judgements" }, sidesOf(row).map((side) => judgement(side, row))),
    expectations.map(({ names, value }) => comparison(row, value, names)),
    verbatims("QEMU", row, "qemu"),
    verbatims("To repeat it", row, "repro"),
    verbatims("What went wrong", row, "detail"),
  );
}
