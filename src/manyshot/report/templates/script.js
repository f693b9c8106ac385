// Draws the figures of a page, again when the colour scheme changes.
(() => {
  const root = document.documentElement;
  const touch = matchMedia("(pointer: coarse)").matches;
  let variables = new Map();

  const variable = (name) => {
    if (!variables.has(name)) {
      variables.set(name, getComputedStyle(root).getPropertyValue(name).trim());
    }
    return variables.get(name);
  };

  // A colour "--name" is a variable of the page; nothing but colours is replaced.
  const painted = (value, isColour) => {
    if (typeof value === "string") {
      return isColour && value.startsWith("--") ? variable(value) : value;
    }
    if (Array.isArray(value)) return value.map((item) => painted(item, isColour));
    if (value === null || typeof value !== "object") return value;
    const copy = {};
    for (const [key, item] of Object.entries(value)) {
      copy[key] = painted(item, /color$/.test(key));
    }
    return copy;
  };

  const template = () => {
    const axis = {
      gridcolor: variable("--line"), linecolor: variable("--line"),
      zerolinecolor: variable("--line"), tickcolor: variable("--line"),
      automargin: true, fixedrange: touch,
    };
    return { layout: {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5,
              color: variable("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: variable("--card"), bordercolor: variable("--line"),
                    font: { color: variable("--ink") }, align: "left" },
      margin: { l: 8, r: 12, t: 12, b: 8 },
      // Above the plot; it wraps where there is little room.
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" },
      xaxis: axis, yaxis: axis, dragmode: touch ? false : "zoom", hovermode: "closest",
    } };
  };

  const config = { responsive: true, displaylogo: false, displayModeBar: false };

  const drawOne = async (plot) => {
    const figure = JSON.parse(plot.parentElement.querySelector("script").textContent);
    const view = figure.views?.[plot.dataset.view ?? 0] ?? { traces: [], layout: figure.layout };
    const data = figure.data.map((trace, i) => ({ ...trace, ...view.traces[i] }));
    const layout = { ...painted(view.layout, false), template: template(), autosize: true };
    try {
      await Plotly.react(plot, painted(data, false), layout, config);
      plot.dataset.drawn = "yes";
      return true;
    } catch (error) {
      console.error(error);
      plot.textContent = "This figure could not be drawn: " + error.message;
      return false;
    }
  };

  const draw = async () => {
    variables = new Map();
    let drawn = 0;
    for (const plot of document.querySelectorAll(".drawing")) drawn += await drawOne(plot);
    root.dataset.drawn = drawn;
  };

  for (const buttons of document.querySelectorAll(".views")) {
    const plot = buttons.parentElement.querySelector(".drawing");
    [...buttons.children].forEach((button, number) => button.addEventListener("click", () => {
      for (const other of buttons.children) other.ariaPressed = String(other === button);
      plot.dataset.view = number;
      drawOne(plot);
    }));
  }

  // The library that draws is packed in the page: unpacked it is larger than all else by far.
  const unpack = async () => {
    const packed = atob(document.getElementById("packed").textContent);
    const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };

  const begin = async () => {
    try {
      await unpack();
    } catch (error) {
      console.error(error);
      const why = "This browser cannot unpack what draws the figures: take a newer one. " + error;
      for (const plot of document.querySelectorAll(".drawing")) plot.textContent = why;
      root.dataset.drawn = 0;
      return;
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    await draw();
  };
  begin();
})();
