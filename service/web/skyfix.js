"use strict";

const form = document.getElementById("ask");
const drop = document.getElementById("drop");
const said = document.getElementById("said");
const preview = document.getElementById("preview");
const seen = document.getElementById("seen");
const matchList = document.getElementById("matches");
const map = new SlippyMap(document.getElementById("map"));
const { panorama, near, radius_m: radius } = form.elements;
let region = [];
let answered = [];

function say(text, isProblem = false) {
  said.textContent = text;
  said.className = isProblem ? "problem" : "";
}

function draw() {
  map.shapes = [...region, ...answered, ...nearCircle()];
  map.draw();
}

function nearCircle() {
  const [lat, lon] = near.value.split(",").map(Number);
  return near.value && Number.isFinite(lat) && Number.isFinite(lon)
    ? [circle(lat, lon, Number(radius.value) || 500, "near")]
    : [];
}

async function problemOf(response) {
  const problem = await response.json().catch(() => ({}));
  return `${problem.title ?? response.statusText}: ${problem.detail ?? response.status}`;
}

async function showRegion() {
  const response = await fetch("/index").catch(() => null);
  if (!response?.ok) {
    say(response ? await problemOf(response) : "The service does not answer", true);
    return;
  }
  const index = await response.json();
  region = [box(index.bounds, "region")];
  draw();
  map.show(index.bounds);
  document.getElementById("index").textContent =
    `Index ${index.version}: ${index.count} tiles of ${index.tile_size_m[0]} m`;
  const credits = index.sources.map(({ attribution, licence }) => [attribution, licence].filter(Boolean).join(", "));
  document.getElementById("credit").textContent = credits.filter(Boolean).join(" · ");
}

function queryOf() {
  const query = new URLSearchParams();
  for (const name of ["top_k", "heading_deg", "heading_tolerance_deg", "vertical_fov_deg", "horizontal_fov_deg", "horizon", "near", "radius_m"]) {
    if (form.elements[name].value) query.set(name, form.elements[name].value);
  }
  if (form.elements.explain.checked) query.set("explain", "true");
  return query;
}

function listed(match) {
  const item = document.createElement("li");
  const tile = document.createElement("img");
  tile.loading = "lazy";
  tile.src = `/tiles/${encodeURIComponent(match.tile_id)}.jpg`;
  tile.alt = `aerial tile ${match.tile_id}`;
  const rank = document.createElement("b");
  rank.textContent = `${match.rank} `;
  item.append(tile, rank, `distance ${match.distance.toFixed(3)}`);
  item.title = `${match.latitude.toFixed(6)}, ${match.longitude.toFixed(6)}`;
  item.addEventListener("click", () => map.show(match.bounds));
  return item;
}

function showFix(fix) {
  const { position, matches, explanation } = fix;
  const boxes = matches.map((m) => box(m.bounds, m.rank === 1 ? "match first" : "match", String(m.rank)));
  answered = boxes.reverse();
  if (position) {
    const { latitude, longitude } = position;
    if (fix.radius_m) answered.push(circle(latitude, longitude, fix.radius_m, "radius"));
    answered.push(arrow(latitude, longitude, matches[0].heading_deg));
    const radius = fix.radius_m ? ` ± ${fix.radius_m.toFixed(0)} m` : "";
    const sure = fix.confidence == null ? "" : `, ${(100 * fix.confidence).toFixed(0)} % sure`;
    const away = fix.in_index === false ? "Probably not in this index. " : "";
    const heading = `facing ${matches[0].heading_deg.toFixed(0)}°`;
    const notes = Object.values(fix.geometry).flatMap(({ note }) => (note ? [`. ${note}`] : [])).join("");
    const milliseconds = Object.values(fix.timings_ms).reduce((sum, one) => sum + one, 0);
    say(`${away}${latitude.toFixed(6)}, ${longitude.toFixed(6)}${radius}${sure}, ${heading} (${milliseconds.toFixed(0)} ms)${notes}`);
    map.show(around(matches.slice(0, 3).map((m) => m.bounds)));
  } else {
    say(fix.note);
  }
  seen.hidden = !explanation;
  if (explanation) {
    document.getElementById("projected").src = explanation.projected;
    document.getElementById("attention").src = explanation.attention ?? "data:,";
  }
  matchList.replaceChildren(...matches.map(listed));
  draw();
}

function around(boxes) {
  // Neighbours across the 180th meridian are 360° apart by their numbers.
  const near = (longitude) => longitude - 360 * Math.round((longitude - boxes[0][0]) / 360);
  const column = (i) => boxes.map((box) => (i % 2 ? box[i] : near(box[i])));
  return [Math.min(...column(0)), Math.min(...column(1)), Math.max(...column(2)), Math.max(...column(3))];
}

async function locate() {
  const body = new FormData();
  body.append("panorama", panorama.files[0]);
  const button = form.querySelector("button");
  button.disabled = true;
  say("Looking…");
  try {
    const response = await fetch(`/localize?${queryOf()}`, { method: "POST", body });
    if (response.ok) showFix(await response.json());
    else say(await problemOf(response), true);
  } catch (error) {
    say(`The service did not answer: ${error.message}`, true);
  } finally {
    button.disabled = false;
  }
}

function showPreview() {
  URL.revokeObjectURL(preview.src);
  const [file] = panorama.files;
  preview.hidden = !file;
  if (file) preview.src = URL.createObjectURL(file);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  locate();
});
panorama.addEventListener("change", showPreview);
for (const input of [near, radius]) input.addEventListener("input", draw);
map.onPick = ({ lat, lon }) => {
  near.value = `${lat.toFixed(6)},${lon.toFixed(6)}`;
  near.closest("details").open = true;
  draw();
};
const [closer, farther] = document.querySelectorAll("#zoom button");
for (const [button, steps] of [[closer, 1], [farther, -1]]) {
  button.addEventListener("click", () => {
    const frame = map.element.getBoundingClientRect();
    map.zoomAt(steps, frame.left + frame.width / 2, frame.top + frame.height / 2);
  });
}
for (const [name, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", isOver);
    if (name === "drop" && event.dataTransfer.files.length) {
      panorama.files = event.dataTransfer.files;
      showPreview();
      locate();
    }
  });
}
showRegion();
