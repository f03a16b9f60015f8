// The reviewed survey as files: GeoJSON and GPX here, poses.csv in its own module.

import { headingOf, positionOf, trackOf } from "/web/survey.js";

const point = (image) => {
  const { latitude, longitude } = positionOf(image);
  return [Number(longitude.toFixed(7)), Number(latitude.toFixed(7))];
};

// RFC 7946 cuts lines at the 180th meridian.
function partsOf(line) {
  const parts = [[]];
  for (const at of line) {
    const last = parts.at(-1).at(-1);
    if (last && Math.abs(at[0] - last[0]) > 180) {
      const edge = last[0] > 0 ? 180 : -180;
      const beyond = at[0] + 2 * edge;
      const share = beyond === last[0] ? 0 : (edge - last[0]) / (beyond - last[0]);
      const latitude = last[1] + share * (at[1] - last[1]);
      parts.at(-1).push([edge, latitude]);
      parts.push([[-edge, latitude]]);
    }
    parts.at(-1).push(at);
  }
  return parts;
}

function lineOf(line) {
  const parts = partsOf(line);
  return parts.length === 1
    ? { type: "LineString", coordinates: line }
    : { type: "MultiLineString", coordinates: parts };
}

const feature = (geometry, properties) => ({ type: "Feature", geometry, properties });

export function geoJson(images, drives) {
  const places = images.map((image) => feature({ type: "Point", coordinates: point(image) }, {
    file: image.name,
    heading_deg: headingOf(image),
    radius_m: image.moved ? null : image.fix?.radius_m ?? null,
    confidence: image.fix?.confidence ?? null,
    verdict: image.verdict,
    note: image.note,
  }));
  const tracks = drives.map(trackOf).filter((frames) => frames.length > 1)
    .map((frames, drive) => feature(lineOf(frames.map(point)), { drive }));
  return `${JSON.stringify({ type: "FeatureCollection", features: [...places, ...tracks] }, null, 1)}\n`;
}

function gpxPoint(parent, name, image) {
  const [lon, lat] = point(image);
  const element = parent.ownerDocument.createElementNS(parent.namespaceURI, name);
  element.setAttribute("lat", lat);
  element.setAttribute("lon", lon);
  parent.append(element);
  return element;
}

function child(parent, name, text = "") {
  const element = parent.ownerDocument.createElementNS(parent.namespaceURI, name);
  // XML has no control characters, not even escaped.
  element.textContent = text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd");
  parent.append(element);
  return element;
}

export function gpx(images, drives) {
  const page = document.implementation.createDocument("http://www.topografix.com/GPX/1/1", "gpx");
  const root = page.documentElement;
  root.setAttribute("version", "1.1");
  root.setAttribute("creator", "Skyfix");
  for (const image of images) {
    const waypoint = gpxPoint(root, "wpt", image);
    child(waypoint, "name", image.name);
    child(waypoint, "desc", [image.verdict, image.note].filter(Boolean).join(": "));
  }
  drives.map(trackOf).forEach((frames, number) => {
    const track = child(root, "trk");
    child(track, "name", `drive ${number}`);
    const segment = child(track, "trkseg");
    for (const image of frames) {
      const at = gpxPoint(segment, "trkpt", image);
      if (/\dT\d/.test(image.fix?.time ?? "") && /(Z|[+-]\d\d:\d\d)$/.test(image.fix.time)) child(at, "time", image.fix.time);
    }
  });
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(page)}\n`;
}

export function download(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
