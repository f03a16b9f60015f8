// poses.csv: the places that `--validation` and the training of an own region read.

import { headingOf, positionOf } from "/web/survey.js";

const COLUMNS = ["id", "file", "latitude", "longitude", "heading_deg", "confidence", "verdict", "note"];
const NEEDED = ["file", "latitude", "longitude"];
const VERDICTS = ["", "accepted", "rejected"];

const cell = (value) => (/[",\r\n]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
const row = (values) => `${values.map((value) => cell(String(value ?? ""))).join(",")}\n`;

export function posesCsv(images) {
  const rows = images.map((image) => {
    const { latitude, longitude } = positionOf(image);
    const place = [latitude.toFixed(7), longitude.toFixed(7), headingOf(image)];
    return row([image.name, image.name, ...place, image.fix?.confidence, image.verdict, image.note]);
  });
  return row(COLUMNS) + rows.join("");
}

// The cells of a CSV, with the number of the line where each row begins.
function rowsOf(text) {
  const rows = [];
  let [cells, line, begun] = [[], 1, 1];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\r\n]*))(,|\r?\n|\r|$)/g)) {
    cells.push(quoted === undefined ? plain.trim() : quoted.replaceAll('""', '"'));
    line += (quoted?.match(/\n/g) ?? []).length + (end === "," || end === "" ? 0 : 1);
    if (end === ",") continue;
    if (cells.some(Boolean)) rows.push([begun, cells]);
    [cells, begun] = [[], line];
    if (end === "") break;
  }
  return rows;
}

function numberOf(name, text, most) {
  const value = Number(text);
  if (text === "" || !(Math.abs(value) <= most)) {
    throw new Error(`${name} is ${text || "empty"}: give ${-most} to ${most}`);
  }
  return value;
}

function poseOf(said) {
  if (!said.file) throw new Error("file is empty");
  const verdict = said.verdict ?? "accepted";
  if (!VERDICTS.includes(verdict)) throw new Error(`verdict is ${verdict}: give accepted, rejected or nothing`);
  const moved = {
    latitude: numberOf("latitude", said.latitude, 90),
    longitude: numberOf("longitude", said.longitude, 180),
  };
  const turned = said.heading_deg ? numberOf("heading_deg", said.heading_deg, 360) : null;
  return { name: said.file, moved, turned, verdict, note: said.note ?? "" };
}

// What Survey.merge takes. Throws an Error that names the line, and what to do.
export function readPoses(name, text) {
  const [[, columns], ...rows] = [...rowsOf(text.replace(/^\ufeff/, "")), [1, []]];
  const lacking = NEEDED.filter((column) => !columns.includes(column));
  if (lacking.length) {
    throw new Error(`${name} lacks the columns ${lacking.join(", ")}: choose a poses.csv, with commas between its columns`);
  }
  rows.pop();
  if (!rows.length) throw new Error(`${name} has no places`);
  return rows.map(([line, cells]) => {
    try {
      return poseOf(Object.fromEntries(columns.map((column, i) => [column, cells[i] ?? ""])));
    } catch (error) {
      throw new Error(`${name}, line ${line}: ${error.message}. Nothing was imported`);
    }
  });
}
