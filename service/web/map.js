// The map: the region's imagery, an optional base map below it, and shapes on both. Knows nothing
// of surveys. Leaflet is a plain script, so its name L is global.

const ZOOM = { minZoom: 2, maxZoom: 22 };
const OUTSIDE = { ...ZOOM, maxNativeZoom: 19, referrerPolicy: "strict-origin-when-cross-origin" };

// Leaflet shows credits as HTML; ours are plain text.
function escaped(text) {
  const element = document.createElement("span");
  element.textContent = text;
  return element.innerHTML;
}

// Map tiles of a service that may ask for a key.
const KeyedTiles = L.TileLayer.extend({
  createTile(address, done) {
    const { service } = this.options;
    if (!service.key) return L.TileLayer.prototype.createTile.call(this, address, done);
    const image = document.createElement("img");
    image.alt = "";
    image.addEventListener("load", () => done(null, image));
    image.addEventListener("error", () => done(new Error("no imagery here"), image));
    service.picture(this.getTileUrl(address)).then((url) => { image.src = url; });
    return image;
  },
});

export class RegionMap {
  // settings: basemap_url, basemap_attribution. onPick: called with a place clicked with Shift.
  constructor(element, settings, service, onPick) {
    this.map = L.map(element, { ...ZOOM, zoomControl: false, preferCanvas: true, boxZoom: false });
    this.map.setView([0, 0], 2);
    this.map.attributionControl.setPrefix("Leaflet");
    this.centre = 0; // longitude of the region's centre
    this.layers = {};
    this.control = L.control.layers(null, null, { position: "topright" }).addTo(this.map);
    L.control.zoom({ position: "topleft" }).addTo(this.map);
    L.control.scale({ imperial: false }).addTo(this.map);
    if (settings.basemap_url) {
      const credit = escaped(settings.basemap_attribution);
      const tiles = L.tileLayer(settings.basemap_url, { ...OUTSIDE, attribution: credit, zIndex: 0 });
      this.control.addOverlay(tiles.addTo(this.map), "Base map");
    }
    this.addLayer("Imagery", new KeyedTiles("/map/{z}/{x}/{y}", { ...ZOOM, minZoom: 10, service }));
    for (const name of ["Region", "Candidates", "Hint"]) this.addLayer(name, L.layerGroup());
    this.map.on("click", ({ latlng, originalEvent }) => {
      if (originalEvent.shiftKey) onPick(latlng.wrap());
    });
    new ResizeObserver(() => this.map.invalidateSize({ pan: false })).observe(element);
  }

  addLayer(name, layer) {
    this.layers[name] = layer.addTo(this.map);
    this.control.addOverlay(layer, name);
  }

  // The copy of a longitude that lies nearest to the region: the world repeats every 360 degrees.
  near(longitude, centre = this.centre) {
    return longitude - 360 * Math.round((longitude - centre) / 360);
  }

  point({ latitude, longitude }) {
    return [latitude, this.near(longitude)];
  }

  // Corners of a box west, south, east, north; west > east crosses the 180th meridian.
  corners([west, south, east, north]) {
    const left = this.near(west);
    return [[south, left], [north, this.near(east, left + 1e-9)]];
  }

  show(boxes) {
    const all = L.latLngBounds(boxes.flatMap((box) => this.corners(box)));
    this.map.fitBounds(all, { maxZoom: 19, padding: [30, 30] });
  }

  showRegion({ bounds, sources }) {
    const [west, , east] = bounds;
    this.centre = (west + (east < west ? east + 360 : east)) / 2;
    this.layers.Region.clearLayers();
    L.rectangle(this.corners(bounds), { className: "region", fill: false, interactive: false })
      .setStyle({ color: "#fff", weight: 2, dashArray: "6 5" })
      .addTo(this.layers.Region);
    const credits = sources.map(({ attribution, licence }) => [attribution, licence].filter(Boolean).join(", "));
    const shown = [...new Set(credits)].filter(Boolean).map(escaped).join(" · ");
    this.map.attributionControl.removeAttribution(this.credit).addAttribution(shown);
    this.credit = shown;
    this.show([bounds]);
  }

  // Outlines of the matches, best on top.
  showCandidates(matches, chosen = 1) {
    this.layers.Candidates.clearLayers();
    for (const { bounds, rank } of [...matches].reverse()) {
      const isChosen = rank === chosen;
      L.rectangle(this.corners(bounds), { interactive: false })
        .setStyle({ color: isChosen ? "#e4002b" : "#ffd400", weight: isChosen ? 2.5 : 1.5, fill: false })
        .addTo(this.layers.Candidates);
    }
  }

  // Anything drawn on a layer, in place of what was there.
  place(layer, ...shapes) {
    this.layers[layer].clearLayers();
    for (const shape of shapes) shape.addTo(this.layers[layer]);
  }

  circle(place, metres, color) {
    return L.circle(this.point(place), { radius: metres, color, weight: 2, fillOpacity: 0.1, interactive: false });
  }

  // A marker with an arrow that faces `heading` degrees.
  arrow(place, heading, options = {}) {
    const picture = document.getElementById("arrow").content.firstElementChild.cloneNode(true);
    picture.querySelector(".facing").style.transform = `rotate(${heading}deg)`;
    const icon = L.divIcon({ html: picture, className: "arrow", iconSize: [52, 52] });
    return L.marker(this.point(place), { icon, keyboard: false, ...options });
  }
}
