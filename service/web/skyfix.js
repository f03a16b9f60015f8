import { RegionMap } from "/web/map.js";

const form = document.getElementById("ask");
const drop = document.getElementById("drop");
const said = document.getElementById("said");
const preview = document.getElementById("preview");
const seen = document.getElementById("seen");
const matchList = document.getElementById("matches");
const settings = await (await fetch("/web/settings.json")).json();
const map = new RegionMap(document.getElementById("map"), settings, pickNear);
const { panorama, near, radius_m: radius } = form.elements;
let answered = [];

function say(text, isProblem = false) {
  said.textContent = text;
  said.className = isProblem ? "problem" : "";
}

function draw() {
  map.place("Places", ...answered, ...nearCircle());
}

function nearCircle() {
  const [latitude, longitude] = near.value.split(",").map(Number);
  return near.value && Number.isFinite(latitude) && Number.isFinite(longitude)
    ? [map.circle({ latitude, longitude }, Number(radius.value) || 500, "#0b6bcb")]
    : [];
}

function pickNear({ lat, lng }) {
  near.value = `${lat.toFixed(6)},${lng.toFixed(6)}`;
  near.closest("details").open = true;
  draw();
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
  map.showRegion(index);
  document.getElementById("index").textContent =
    `Index ${index.version}: ${index.count} tiles of ${index.tile_size_m[0]} m`;
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
  item.addEventListener("click", () => map.show([match.bounds]));
  return item;
}

function showFix(fix) {
  const { position, matches, explanation } = fix;
  map.showCandidates(matches);
  answered = [];
  if (position) {
    const { latitude, longitude } = position;
    if (fix.radius_m) answered.push(map.circle(position, fix.radius_m, "#e4002b"));
    answered.push(map.arrow(position, matches[0].heading_deg));
    const radius = fix.radius_m ? ` ± ${fix.radius_m.toFixed(0)} m` : "";
    const sure = fix.confidence == null ? "" : `, ${(100 * fix.confidence).toFixed(0)} % sure`;
    const away = fix.in_index === false ? "Probably not in this index. " : "";
    const heading = `facing ${matches[0].heading_deg.toFixed(0)}°`;
    const notes = Object.values(fix.geometry).flatMap(({ note }) => (note ? [`. ${note}`] : [])).join("");
    const milliseconds = Object.values(fix.timings_ms).reduce((sum, one) => sum + one, 0);
    say(`${away}${latitude.toFixed(6)}, ${longitude.toFixed(6)}${radius}${sure}, ${heading} (${milliseconds.toFixed(0)} ms)${notes}`);
    map.show(matches.slice(0, 3).map((m) => m.bounds));
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
