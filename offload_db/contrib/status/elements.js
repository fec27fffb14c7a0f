"use strict";
// Texts for numbers, and elements that are changed only where they have to be.

const at = (id) => document.getElementById(id);

// Texts

function ms(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const value = seconds * 1000;
  if (value >= 10000) return `${(value / 1000).toFixed(value >= 100000 ? 0 : 1)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value > 0 ? value.toFixed(2) : "0"} ms`;
}

// For axes: no digits that say nothing.
const axisMs = (seconds) => (seconds >= 1 ? `${+seconds.toFixed(2)} s` : `${+(seconds * 1000).toFixed(2)} ms`);
const count = (value) => (value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en"));
const rate = (value) => (value >= 100 ? count(value) : value >= 10 ? value.toFixed(0) : value > 0 ? value.toFixed(1) : "0");
const percent = (value) => (value === null ? "–" : `${+(value * 100).toFixed(value && value < 0.1 ? 1 : 0)} %`);
const day = (seconds) => new Date(seconds * 1000).toLocaleDateString("en", {year: "numeric", month: "short", day: "numeric"});

// Elements

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// A text that is broken rather behind a slash than in a word.
function breakable(text) {
  return el("span", {}, ...text.split(/(?<=[/_.])/).flatMap((part) => [part, el("wbr")]));
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function link(unit) {
  const text = unit.place;
  return unit.link ? el("a", {href: unit.link, title: unit.file}, text) : el("span", {title: unit.file}, text);
}

// Have the children of a node be those of the items, by key: what stays keeps its place, its focus and its state.
function sync(parent, items, key, make, update) {
  const known = new Map([...parent.children].filter((node) => node.dataset.key !== undefined).map((node) => [node.dataset.key, node]));
  let before = null;
  for (const item of items) {
    const name = String(key(item));
    let node = known.get(name);
    known.delete(name);
    if (!node) {
      node = make(item);
      node.dataset.key = name;
    }
    update(node, item);
    const place = before ? before.nextSibling : [...parent.children].find((child) => child.dataset.key !== undefined) || null;
    if (place !== node) parent.insertBefore(node, before ? before.nextSibling : place);
    before = node;
  }
  for (const node of known.values()) node.remove();
}

function bar(share, full) {
  const inner = el("i");
  inner.style.width = `${Math.min(100, 100 * share).toFixed(1)}%`;
  return el("span", {class: full ? "bar full" : "bar", "aria-hidden": "true"}, inner);
}
