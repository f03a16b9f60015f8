// The survey on the map: a dot for each place, the drives' tracks, and an arrow at the chosen one,
// which the reviewer drags to move the place and by its handle to turn it.

import { headingOf, isDoubtful, positionOf, trackOf } from "/web/survey.js";

export const COLOURS = { accepted: "#1a7f37", rejected: "#6e7781", doubtful: "#d1570a", sure: "#0b6bcb" };
const HANDLE = 46; // pixels from the arrow's centre

export function kindOf(image, limit) {
  if (image.verdict) return image.verdict;
  return isDoubtful(image, limit) ? "doubtful" : "sure";
}

export class PlaceMarkers {
  // on: choose(image), move(image, position), turn(image, heading).
  constructor(regionMap, on) {
    Object.assign(this, { regionMap, on, dots: new Map(), chosen: null });
    for (const name of ["Tracks", "Places", "Chosen"]) regionMap.addLayer(name, L.layerGroup());
    regionMap.map.on("zoomend", () => this.placeHandle());
  }

  // images: those to show. limit: see isDoubtful.
  show(images, drives, limit) {
    const shown = new Set(images);
    for (const [image, dot] of this.dots) {
      if (!shown.has(image) || !positionOf(image)) {
        dot.remove();
        this.dots.delete(image);
      }
    }
    for (const image of images) if (positionOf(image)) this.dot(image, limit);
    this.regionMap.place("Tracks", ...drives.map((frames) => this.track(frames)));
  }

  dot(image, limit) {
    const place = this.regionMap.point(positionOf(image));
    const style = { fillColor: COLOURS[kindOf(image, limit)] };
    const known = this.dots.get(image);
    if (known) {
      if (known.options.fillColor !== style.fillColor) known.setStyle(style);
      if (!known.getLatLng().equals(place)) known.setLatLng(place);
      return;
    }
    const dot = L.circleMarker(place, { radius: 7, color: "#fff", weight: 2, fillOpacity: 1, ...style });
    dot.on("click", () => this.on.choose(image));
    this.dots.set(image, dot.addTo(this.regionMap.layers.Places));
  }

  track(frames) {
    const line = trackOf(frames).map((image) => this.regionMap.point(positionOf(image)));
    return L.polyline(line, { color: COLOURS.sure, weight: 3, opacity: 0.8, interactive: false });
  }

  choose(image) {
    this.chosen = image;
    this.regionMap.showCandidates(image?.fix?.matches ?? []);
    this.drawChosen();
  }

  drawChosen() {
    const image = this.chosen;
    const position = image && positionOf(image);
    this.arrow = null;
    if (!position) {
      this.regionMap.place("Chosen");
      return;
    }
    this.arrow = this.regionMap.arrow(position, headingOf(image) ?? 0, { draggable: true, zIndexOffset: 500, alt: image.name });
    this.arrow.on("drag", () => this.placeHandle());
    this.arrow.on("dragend", () => {
      const { lat: latitude, lng: longitude } = this.arrow.getLatLng().wrap();
      this.on.move(image, { latitude, longitude });
    });
    const { radius_m: radius, position: found } = image.fix ?? {};
    const circle = found && radius ? [this.regionMap.circle(found, radius, "#e4002b")] : [];
    this.handle = this.turnHandle(image);
    this.regionMap.place("Chosen", ...circle, this.arrow, this.handle);
    this.placeHandle();
    this.look(this.sight?.heading ?? null, this.sight?.width ?? 0);
  }

  turnHandle(image) {
    const icon = L.divIcon({ className: "handle", iconSize: [18, 18] });
    const handle = L.marker(this.arrow.getLatLng(), { icon, draggable: true, keyboard: false, zIndexOffset: 600 });
    const heading = () => {
      const { map } = this.regionMap;
      const from = map.latLngToContainerPoint(this.arrow.getLatLng());
      const to = map.latLngToContainerPoint(handle.getLatLng());
      return (Math.round((Math.atan2(to.x - from.x, from.y - to.y) * 180) / Math.PI) + 360) % 360;
    };
    handle.on("drag", () => this.face(heading()));
    handle.on("dragend", () => this.on.turn(image, heading()));
    return handle;
  }

  face(heading) {
    this.arrow.getElement().querySelector(".facing").style.transform = `rotate(${heading}deg)`;
  }

  // Shows where the reviewer looks from the chosen place; null: nowhere. Both in degrees.
  look(heading, width) {
    this.sight = { heading, width };
    const picture = this.arrow?.getElement()?.querySelector(".sight");
    picture?.toggleAttribute("hidden", heading === null);
    if (!picture || heading === null) return;
    const [x, y] = [Math.sin, Math.cos].map((of) => 60 * of((Math.min(width, 150) * Math.PI) / 360));
    picture.style.transform = `rotate(${heading}deg)`;
    picture.firstElementChild.setAttribute("d", `M0,0 L${-x},${-y} A60,60 0 0 1 ${x},${-y} Z`);
  }

  placeHandle() {
    if (!this.arrow) return;
    const { map } = this.regionMap;
    const turn = ((headingOf(this.chosen) ?? 0) * Math.PI) / 180;
    const from = map.latLngToContainerPoint(this.arrow.getLatLng());
    const to = from.add([HANDLE * Math.sin(turn), -HANDLE * Math.cos(turn)]);
    this.handle.setLatLng(map.containerPointToLatLng(to));
  }

  // Brings the chosen place into view.
  reveal() {
    const position = this.chosen && positionOf(this.chosen);
    if (!position) return;
    const { map } = this.regionMap;
    const place = this.regionMap.point(position);
    const seen = map.getBounds().pad(-0.1).contains(place);
    if (!seen || map.getZoom() < 16) map.setView(place, Math.max(map.getZoom(), 17), { animate: false });
  }
}
