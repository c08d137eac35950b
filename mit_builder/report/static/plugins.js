// Columns of other packages' stages: a table for each below the facts of a clip.
const factsAlone = factsOf;
const pluginCell = (value) => (value === null ? "–" : typeof value === "number" ? String(Number(value.toPrecision(5))) : Array.isArray(value) && value.length > 12 ? `${value.length} values` : typeof value === "object" ? JSON.stringify(value) : String(value));

function pluginTable([stage, values]) {
  const line = ([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, pluginCell(value)));
  return make("table", { class: "plugin", "data-stage": stage }, make("caption", {}, stage), make("tbody", {}, ...Object.entries(values).map(line)));
}

factsOf = (row) => make("div", {}, factsAlone(row), ...Object.entries(row.plugged || {}).map(pluginTable));
