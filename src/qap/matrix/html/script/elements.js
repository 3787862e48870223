// Making and finding elements.

/** An element; properties that it does not have become attributes. */
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat());
  return element;
}

const pill = (verdict) => h("span", { className: "verdict", "data-verdict": verdict }, verdict);

const element = (id) => document.getElementById(id);

/** A count with its thousands set apart. */
const grouped = (number) => number.toLocaleString("en");
