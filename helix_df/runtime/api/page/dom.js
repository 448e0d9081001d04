// Makes elements. All text goes in as text: nothing that a model, a job or an error says is ever markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  if (options.class) made.className = options.class;
  for (const child of children) made.append(child);
  return made;
}

export function cell(content, kind = "") {
  return element("td", { class: kind }, content);
}

// A bar of width 100; parts are [from, to, class] in percent.
export function bar(label, parts) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "bar");
  svg.setAttribute("viewBox", "0 0 100 10");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  for (const [from, to, kind] of [[0, 100, "whole"], ...parts]) {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("x", from);
    rect.setAttribute("width", Math.max(0, to - from));
    rect.setAttribute("height", 10);
    rect.setAttribute("class", kind);
    svg.append(rect);
  }
  return svg;
}

export const rounded = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(1));
