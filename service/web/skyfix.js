"use strict";

const form = document.getElementById("ask");
const said = document.getElementById("said");
const matches = document.getElementById("matches");
const preview = document.getElementById("preview");

function say(text, isProblem = false) {
  said.textContent = text;
  said.className = isProblem ? "problem" : "";
}

function shown(match) {
  const item = document.createElement("li");
  const tile = document.createElement("img");
  tile.src = `/tiles/${encodeURIComponent(match.tile_id)}.jpg`;
  tile.alt = `aerial tile ${match.tile_id}`;
  const place = `${match.latitude.toFixed(6)}, ${match.longitude.toFixed(6)}`;
  const fit = `distance ${match.distance.toFixed(3)}, heading ${match.heading_deg.toFixed(0)}°`;
  item.append(tile, place, document.createElement("br"), fit);
  return item;
}

form.elements.panorama.addEventListener("change", () => {
  URL.revokeObjectURL(preview.src);
  const [file] = form.elements.panorama.files;
  preview.hidden = !file;
  if (file) preview.src = URL.createObjectURL(file);
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = new URLSearchParams({ top_k: form.elements.top_k.value });
  if (form.elements.heading_deg.value) query.set("heading_deg", form.elements.heading_deg.value);
  const body = new FormData();
  body.append("panorama", form.elements.panorama.files[0]);
  matches.replaceChildren();
  say("Looking…");
  try {
    const response = await fetch(`/localize?${query}`, { method: "POST", body });
    const answer = await response.json();
    if (!response.ok) {
      say(`${answer.title}: ${answer.detail}`, true);
      return;
    }
    const { position } = answer;
    say(position
      ? `Best match at ${position.latitude.toFixed(6)}, ${position.longitude.toFixed(6)}`
      : "No tile of the index lies where the hints allow");
    matches.replaceChildren(...answer.matches.map(shown));
  } catch (error) {
    say(`The service did not answer: ${error.message}`, true);
  }
});
