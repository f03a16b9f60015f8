// The page: puts the survey, its queue, the list, the map and the review together.

import { filesChosen, filesDropped, sorted } from "/web/dropped_files.js";
import { Comparison } from "/web/comparison.js";
import { download, geoJson, gpx } from "/web/exports.js";
import { RegionMap } from "/web/map.js";
import { PanoramaViewer } from "/web/panorama_viewer.js";
import { PlaceMarkers } from "/web/place_markers.js";
import { posesCsv, readPoses } from "/web/poses_csv.js";
import { Review } from "/web/review.js";
import { Service } from "/web/service.js";
import { Survey, isDoubtful, positionOf } from "/web/survey.js";
import { SurveyList } from "/web/survey_list.js";
import { SurveyQueue } from "/web/survey_queue.js";
import { SurveyStore } from "/web/survey_store.js";

const at = (id) => document.getElementById(id);
const ask = at("ask");
const { near, radius_m: radius } = ask.elements;
const HINTS = ["heading_deg", "heading_tolerance_deg", "vertical_fov_deg", "horizontal_fov_deg", "projection", "horizon", "near", "radius_m"];

const service = new Service((text) => { at("waiting").textContent = text; });
const settings = await service.ask("/web/settings.json");
const store = await SurveyStore.open().catch(() => null);
const survey = new Survey(store);
const queue = new SurveyQueue(survey, service, settings, progress);
const map = new RegionMap(at("map"), settings, service, pickNear);
const markers = new PlaceMarkers(map, {
  choose,
  move: (image, moved) => survey.change(image, { moved }),
  turn: (image, turned) => survey.change(image, { turned }),
});
const list = new SurveyList(at("list"), choose);
const viewer = new PanoramaViewer(at("picture"), (heading, width) => markers.look(heading, width));
const comparison = new Comparison(at("comparison"), service, {
  query,
  candidate: (match) => map.showCandidates(chosen?.fix?.matches ?? [], match?.rank),
  move: (image, { latitude, longitude }) => survey.change(image, { moved: { latitude, longitude } }),
  explained: (image, { matches, geometry }) => {
    if (image.fix && !image.fix.geometry) survey.change(image, { fix: { ...image.fix, matches, geometry } });
  },
});
const review = new Review(at("review"), survey, viewer, { next: nextDoubtful, relocate: (image) => locateAnew([image]), close: () => choose(null) });
let chosen = null;
let index = null;
let isDrawn = true;

function say(text, isProblem = false) {
  at("said").textContent = text;
  at("said").className = isProblem ? "problem" : "";
}

// --- the survey in sight

const limit = () => at("limit").valueAsNumber / 100;
const FILTERS = {
  all: () => true,
  doubtful: (image) => isDoubtful(image, limit()),
  unreviewed: (image) => image.verdict === "",
  accepted: (image) => image.verdict === "accepted",
  rejected: (image) => image.verdict === "rejected",
  problems: (image) => image.stage === "failed" || (image.stage === "located" && !positionOf(image)),
};

function draw() {
  isDrawn = true;
  const images = [...survey.images.values()];
  const shown = images.filter(FILTERS[at("show").value]);
  if (chosen && !survey.images.has(chosen.name)) choose(null);
  list.show(shown, chosen, limit());
  markers.show(shown, survey.drives(), limit());
  const counts = [...at("show").options].slice(1)
    .map(({ value, text }) => [images.filter(FILTERS[value]).length, text]);
  at("counts").textContent = counts.filter(([count]) => count).map((words) => words.join(" ")).join(", ");
  for (const element of document.querySelectorAll(".with-images")) element.hidden = !images.length;
  progress();
}

function drawSoon() {
  if (isDrawn) requestAnimationFrame(draw);
  isDrawn = false;
}

survey.addEventListener("change", ({ detail }) => {
  if (detail.includes(chosen)) {
    markers.choose(chosen);
    review.show(chosen);
    comparison.show(chosen);
  }
  drawSoon();
});

function choose(image) {
  chosen = image;
  markers.choose(image);
  markers.reveal();
  review.show(image);
  comparison.show(image);
  list.show(list.images, image, limit());
  list.reveal();
}

function nextDoubtful() {
  const images = [...survey.images.values()];
  const after = images.indexOf(chosen) + 1;
  const next = [...images.slice(after), ...images.slice(0, after)].find((image) => isDoubtful(image, limit()));
  if (next) choose(next);
  else say("Nothing doubtful is left. Accept the rest, or raise the limit.");
}

function acceptRest() {
  const rest = list.images.filter((image) => image.verdict === "" && positionOf(image) && !isDoubtful(image, limit()));
  for (const image of rest) image.verdict = "accepted";
  survey.save(rest);
  say(`${rest.length} more are accepted.`);
}

// --- the service

function query() {
  const stated = HINTS.filter((name) => ask.elements[name].value);
  return new URLSearchParams(stated.map((name) => [name, ask.elements[name].value]));
}

async function locate(images, isDrive) {
  try {
    await queue.locate(images, query(), isDrive);
  } catch (error) {
    const remedy = error.status === 401 ? " Enter the key, then go on." : "";
    say(`${error.message}.${remedy}`, true);
    if (error.status === 401) at("key").closest("details").open = true;
  }
  await showIndex();
  drawSoon();
}

function locateAnew(images, isDrive) {
  say("");
  locate(images, isDrive);
}

const waiting = () => [...survey.images.values()].filter((image) => image.file && image.stage === "waiting");

function progress() {
  const isRunning = queue.isRunning;
  at("progress").hidden = at("cancel").hidden = !isRunning;
  at("progress").max = queue.expected;
  at("progress").value = queue.done;
  at("done").textContent = isRunning ? `${queue.done} of ${queue.expected}` : "";
  const left = isRunning ? 0 : waiting().length;
  at("go-on").hidden = !left;
  at("go-on").textContent = `Locate the ${left} that wait`;
  if (!isRunning) at("waiting").textContent = "";
}

async function showIndex() {
  const found = await service.ask("/index").catch((error) => say(error.message, true));
  if (!found) return;
  if (found.version !== index?.version) {
    if (!index) map.showRegion(found);
    comparison.setGround(found);
    index = found;
  }
  const stale = outdated();
  const text = `Index ${found.version}: ${found.count} tiles of ${found.tile_size_m[0]} m.`;
  at("index").textContent = stale.length ? `${text} ${stale.length} places without a verdict are from another index.` : text;
  at("again").hidden = !stale.some((image) => image.file);
}

const outdated = () => [...survey.images.values()].filter(({ fix, verdict }) => (
  verdict === "" && fix && fix.index_version !== index.version));

// --- files

async function take(found) {
  const { images, tables, other } = sorted(await found);
  const { taken, clashing } = survey.add(images);
  const problems = [];
  const said = [];
  if (other.length) problems.push(`${other.slice(0, 3).join(", ")}${other.length > 3 ? " …" : ""}: no image, left out.`);
  if (clashing.length) problems.push(`${clashing.slice(0, 3).join(", ")}: the survey has another image of this name. Rename the file, or begin a new survey.`);
  for (const table of tables) {
    await importPoses(table).then((text) => said.push(text), (error) => problems.push(error.message));
  }
  if (!images.length && !tables.length && !other.length) problems.push("There is no image in it.");
  say([...problems, ...said].join(" "), problems.length > 0);
  const fresh = taken.filter((image) => image.stage === "waiting");
  for (const image of taken) if (image.stage !== "waiting") queue.picture(image);
  if (fresh.length) await locate(fresh, at("drive").checked);
}

async function importPoses(table) {
  const poses = readPoses(table.name, await table.text());
  survey.merge(poses);
  return `${poses.length} places are imported. Drop their folder to see the images.`;
}

function save(format) {
  const isWanted = at("which").value === "accepted" ? (image) => image.verdict === "accepted" : (image) => image.verdict !== "rejected";
  const images = [...survey.images.values()].filter((image) => positionOf(image) && isWanted(image));
  if (!images.length) {
    say("No place is accepted yet.", true);
    return;
  }
  const drives = survey.drives().map((frames) => frames.filter(isWanted));
  const [name, text, type] = {
    csv: () => ["poses.csv", posesCsv(images), "text/csv"],
    geojson: () => ["survey.geojson", geoJson(images, drives), "application/geo+json"],
    gpx: () => ["survey.gpx", gpx(images, drives), "application/gpx+xml"],
  }[format]();
  download(name, text, type);
  say(`${name} has ${images.length} places.`);
}

// --- hints on the map

function pickNear({ lat, lng }) {
  near.value = `${lat.toFixed(6)},${lng.toFixed(6)}`;
  near.closest("details").open = true;
  showNear();
}

function showNear() {
  const [latitude, longitude] = near.value.split(",").map(Number);
  const isPlace = near.value && Number.isFinite(latitude) && Number.isFinite(longitude);
  const circle = () => map.circle({ latitude, longitude }, Number(radius.value) || 500, "#0b6bcb");
  map.place("Hint", ...(isPlace ? [circle()] : []));
}

// --- events

for (const input of [near, radius]) input.addEventListener("input", showNear);
for (const input of document.querySelectorAll("#ask input[type=file]")) {
  input.addEventListener("change", () => {
    take(filesChosen(input));
    input.value = "";
  });
}
for (const [name, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", isOver);
    if (name === "drop") take(filesDropped(event.dataTransfer));
  });
}
ask.addEventListener("submit", (event) => event.preventDefault());
at("key").value = service.key;
at("key").addEventListener("change", () => {
  service.setKey(at("key").value);
  map.layers.Imagery.redraw();
  showIndex();
});
for (const id of ["show", "limit"]) at(id).addEventListener("input", drawSoon);
for (const [id, act] of Object.entries({
  cancel: () => queue.cancel(),
  "go-on": () => locateAnew(waiting(), at("drive").checked),
  again: () => locateAnew(outdated().filter((image) => image.file)),
  rest: acceptRest,
  next: nextDoubtful,
  anew: () => {
    if (window.confirm("Forget all images and verdicts of this survey?")) {
      queue.cancel();
      survey.clear();
    }
  },
})) at(id).addEventListener("click", act);
for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => save(button.dataset.format));
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) showIndex(); });

if (!store) say("This browser keeps nothing: save a file before you close the page.", true);
await survey.restore();
draw();
await showIndex();
