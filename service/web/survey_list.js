// The list of a survey's images. Only the rows in sight are elements, so thousands are quick.

import { percent } from "/web/fixes.js";
import { COLOURS, kindOf } from "/web/place_markers.js";
import { positionOf } from "/web/survey.js";

const ROW = 68; // pixels, as in skyfix.css
const BEYOND = 4; // rows above and below those in sight
const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };

function stateOf(image) {
  const { stage, problem, verdict, fix, file } = image;
  if (stage === "failed") return problem;
  if (stage === "sending") return "being located …";
  if (stage === "waiting") return file ? "waits" : "waits for its file: drop the folder again";
  if (!positionOf(image)) return fix.notes.join(" ");
  const sure = fix?.confidence == null ? "confidence unknown" : `${percent(fix.confidence)} sure`;
  return [verdict, sure, fix?.in_index === false ? "not in this index?" : ""].filter(Boolean).join(", ");
}

export class SurveyList {
  constructor(element, onChoose) {
    Object.assign(this, { element, onChoose, images: [], rows: new Map(), chosen: null, limit: 1 });
    this.space = element.appendChild(document.createElement("div"));
    this.space.setAttribute("role", "presentation");
    element.addEventListener("scroll", () => this.draw());
    element.addEventListener("keydown", (event) => this.step(event));
    new ResizeObserver(() => this.draw()).observe(element);
  }

  show(images, chosen, limit) {
    Object.assign(this, { images, chosen, limit });
    this.space.style.height = `${images.length * ROW}px`;
    this.draw();
  }

  step(event) {
    if (!(event.key in STEPS) || !this.images.length) return;
    event.preventDefault();
    const at = this.images.indexOf(this.chosen) + STEPS[event.key];
    this.onChoose(this.images[Math.max(0, Math.min(this.images.length - 1, at))]);
  }

  reveal() {
    const top = this.images.indexOf(this.chosen) * ROW;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    if (top + ROW > scrollTop + clientHeight) this.element.scrollTop = top + ROW - clientHeight;
  }

  draw() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW) - BEYOND);
    const count = Math.ceil(this.element.clientHeight / ROW) + 2 * BEYOND;
    const wanted = new Map(this.images.slice(first, first + count).map((image, i) => [image, first + i]));
    for (const [image, row] of this.rows) if (!wanted.has(image)) this.drop(image, row);
    for (const [image, number] of wanted) this.fill(this.rows.get(image) ?? this.row(image), image, number);
    const active = this.rows.get(this.chosen);
    if (active) this.element.setAttribute("aria-activedescendant", active.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  drop(image, row) {
    row.remove();
    URL.revokeObjectURL(row.querySelector("img").src);
    this.rows.delete(image);
  }

  row(image) {
    const row = document.getElementById("row").content.firstElementChild.cloneNode(true);
    row.addEventListener("click", () => this.onChoose(image));
    this.rows.set(image, this.space.appendChild(row));
    return row;
  }

  fill(row, image, number) {
    row.id = `row-${number}`;
    row.style.transform = `translateY(${number * ROW}px)`;
    row.setAttribute("aria-selected", image === this.chosen);
    row.setAttribute("aria-posinset", number + 1);
    row.setAttribute("aria-setsize", this.images.length);
    const [picture, dot, name, state, note] = row.querySelectorAll("img, i, b, span, em");
    if (image.thumbnail && row.thumbnail !== image.thumbnail) {
      URL.revokeObjectURL(picture.src);
      picture.src = URL.createObjectURL(image.thumbnail);
      row.thumbnail = image.thumbnail;
    }
    dot.style.background = image.stage === "located" ? COLOURS[kindOf(image, this.limit)] : "";
    name.textContent = image.name;
    state.textContent = stateOf(image);
    state.className = image.stage === "failed" ? "problem" : "";
    note.textContent = image.note;
  }
}
