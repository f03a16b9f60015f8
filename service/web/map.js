"use strict";

// A small slippy map: Web Mercator tiles from /map/{z}/{x}/{y} and shapes in degrees drawn over
// them. World coordinates run from 0 to 1, west to east and north to south.

const TILE = 256;
const SVG = "http://www.w3.org/2000/svg";

const toWorld = (lat, lon) => ({
  x: (lon + 180) / 360,
  y: (1 - Math.asinh(Math.tan((lat * Math.PI) / 180)) / Math.PI) / 2,
});
const toDegrees = ({ x, y }) => ({
  lat: (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI,
  lon: x * 360 - 180,
});

class SlippyMap {
  constructor(element) {
    this.element = element;
    this.layer = element.appendChild(document.createElement("div"));
    this.layer.className = "layer";
    this.svg = element.appendChild(document.createElementNS(SVG, "svg"));
    this.zoom = 2;
    this.centre = { x: 0.5, y: 0.5 };
    this.shapes = [];
    this.tiles = new Map();
    this.onPick = () => {};
    this.listen();
    new ResizeObserver(() => this.draw()).observe(element);
  }

  get scale() { return TILE * 2 ** this.zoom; }

  // Screen pixels of a place; the world repeats, so the copy nearest to the centre is taken.
  place(lat, lon) {
    const { x, y } = toWorld(lat, lon);
    const nearest = x - Math.round(x - this.centre.x);
    return {
      x: (nearest - this.centre.x) * this.scale + this.element.clientWidth / 2,
      y: (y - this.centre.y) * this.scale + this.element.clientHeight / 2,
    };
  }

  at(clientX, clientY) {
    const box = this.element.getBoundingClientRect();
    return {
      x: this.centre.x + (clientX - box.left - box.width / 2) / this.scale,
      y: this.centre.y + (clientY - box.top - box.height / 2) / this.scale,
    };
  }

  metresToPixels(metres, lat) {
    return (metres / (40075016.686 * Math.cos((lat * Math.PI) / 180))) * this.scale;
  }

  show([west, south, east, north]) {
    const low = toWorld(north, west);
    const high = toWorld(south, east < west ? east + 360 : east);
    const { clientWidth: width, clientHeight: height } = this.element;
    const span = Math.max((high.x - low.x) / width, (high.y - low.y) / height, 1e-9);
    this.zoom = Math.max(2, Math.min(19, Math.floor(Math.log2(0.8 / span / TILE))));
    this.centre = { x: (low.x + high.x) / 2, y: (low.y + high.y) / 2 };
    this.draw();
  }

  zoomAt(steps, clientX, clientY) {
    const before = this.at(clientX, clientY);
    this.zoom = Math.max(2, Math.min(21, this.zoom + steps));
    const after = this.at(clientX, clientY);
    this.centre.x += before.x - after.x;
    this.centre.y += before.y - after.y;
    this.draw();
  }

  listen() {
    let held = null;
    this.element.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button")) return;
      if (event.shiftKey) this.onPick(toDegrees(this.at(event.clientX, event.clientY)));
      else held = this.at(event.clientX, event.clientY);
      this.element.setPointerCapture(event.pointerId);
    });
    this.element.addEventListener("pointermove", (event) => {
      if (!held) return;
      const now = this.at(event.clientX, event.clientY);
      this.centre.x += held.x - now.x;
      this.centre.y += held.y - now.y;
      this.draw();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.element.addEventListener(end, () => { held = null; });
    }
    this.element.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomAt(event.deltaY < 0 ? 1 : -1, event.clientX, event.clientY);
    }, { passive: false });
    this.element.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const box = this.element.getBoundingClientRect();
      const middle = [box.left + box.width / 2, box.top + box.height / 2];
      if (step) {
        this.centre.x += (step[0] * 100) / this.scale;
        this.centre.y += (step[1] * 100) / this.scale;
        this.draw();
      } else if (event.key === "+" || event.key === "-") {
        this.zoomAt(event.key === "+" ? 1 : -1, ...middle);
      }
    });
  }

  draw() {
    this.drawTiles();
    this.svg.replaceChildren(...this.shapes.flatMap((shape) => shape(this)));
  }

  drawTiles() {
    const side = 2 ** this.zoom;
    const { clientWidth: width, clientHeight: height } = this.element;
    const left = this.centre.x * this.scale - width / 2;
    const top = this.centre.y * this.scale - height / 2;
    const wanted = new Set();
    for (let row = Math.max(0, Math.floor(top / TILE)); row * TILE < top + height && row < side; row++) {
      for (let column = Math.floor(left / TILE); column * TILE < left + width; column++) {
        const key = `${this.zoom}/${column}/${row}`;
        wanted.add(key);
        if (!this.tiles.has(key)) this.tiles.set(key, this.tile(column, row, side));
        const { style } = this.tiles.get(key);
        style.transform = `translate(${Math.round(column * TILE - left)}px, ${Math.round(row * TILE - top)}px)`;
      }
    }
    for (const [key, image] of this.tiles) {
      if (!wanted.has(key)) {
        image.remove();
        this.tiles.delete(key);
      }
    }
  }

  tile(column, row, side) {
    const image = document.createElement("img");
    image.alt = "";
    image.draggable = false;
    image.addEventListener("error", () => { image.hidden = true; }); // no imagery there
    image.src = `/map/${this.zoom}/${((column % side) + side) % side}/${row}`;
    return this.layer.appendChild(image);
  }
}

function svg(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

// Shapes: functions from the map to SVG elements, drawn anew whenever the map moves.

const box = ([west, south, east, north], className, label = "") => (map) => {
  const from = map.place(north, west);
  const to = map.place(south, east);
  const size = { width: Math.max(1, to.x - from.x), height: Math.max(1, to.y - from.y) };
  return [
    svg("rect", { x: from.x, y: from.y, ...size, class: className }),
    svg("text", { x: from.x + 4, y: from.y + 14 }, label),
  ];
};

const circle = (lat, lon, metres, className) => (map) => {
  const { x, y } = map.place(lat, lon);
  return [svg("circle", { cx: x, cy: y, r: map.metresToPixels(metres, lat), class: className })];
};

const arrow = (lat, lon, heading) => (map) => {
  const { x, y } = map.place(lat, lon);
  return [svg("path", {
    d: "M0,-26 L11,12 L0,5 L-11,12 Z",
    transform: `translate(${x},${y}) rotate(${heading})`,
    class: "fix",
  })];
};
