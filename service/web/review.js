// The chosen image: its picture, what is known of it, and the reviewer's verdict.

import { wordsOf } from "/web/fixes.js";
import { headingOf, positionOf } from "/web/survey.js";

const KEYS = { a: "accept", r: "reject", z: "undo", n: "next", "[": "left", "]": "right" };
const TURN = 5; // degrees a key

const whole = (degrees) => ((degrees % 360) + 360) % 360;

export class Review {
  // on: next(), called after each verdict; relocate(image); close().
  constructor(form, survey, viewer, on) {
    Object.assign(this, { form, survey, viewer, on, image: null });
    this.actions = {
      accept: () => this.judge("accepted"),
      reject: () => this.judge("rejected"),
      undo: () => this.change({ verdict: "", moved: null, turned: null }),
      next: () => on.next(),
      left: () => this.turn(-TURN),
      right: () => this.turn(TURN),
      relocate: () => on.relocate(this.image),
      close: () => on.close(),
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", ({ target }) => this.edit(target));
    form.addEventListener("click", ({ target }) => this.actions[target.closest("button")?.name]?.());
    document.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    const isTyping = event.target.closest("input:not([type=checkbox]), select, textarea");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = KEYS[event.key];
    if (name === "next" || (name && this.image)) this.actions[name]();
  }

  change(fields) {
    if (this.image) this.survey.change(this.image, fields);
  }

  judge(verdict) {
    if (!positionOf(this.image)) return;
    this.change({ verdict });
    this.on.next();
  }

  turn(degrees) {
    this.change({ turned: whole((headingOf(this.image) ?? 0) + degrees) });
  }

  edit({ name, value, form }) {
    if (name === "note") this.change({ note: value });
    if (name === "heading" && value) this.change({ turned: whole(Number(value)) });
    const [latitude, longitude] = [form.latitude, form.longitude].map((input) => input.valueAsNumber);
    const isPlace = form.latitude.validity.valid && form.longitude.validity.valid;
    if (["latitude", "longitude"].includes(name) && isPlace && Number.isFinite(latitude + longitude)) {
      this.change({ moved: { latitude, longitude } });
    }
  }

  show(image) {
    this.image = image;
    this.form.hidden = !image;
    if (!image) return;
    const { name, note, fix, problem, verdict, moved } = image;
    const position = positionOf(image);
    const heading = headingOf(image);
    const fields = this.form.elements;
    fields.latitude.value = position?.latitude.toFixed(7) ?? "";
    fields.longitude.value = position?.longitude.toFixed(7) ?? "";
    fields.heading.value = heading === null ? "" : Number(heading.toFixed(1));
    fields.note.value = note;
    fields.accept.disabled = fields.reject.disabled = !position;
    fields.relocate.disabled = !image.file;
    this.form.querySelector("h2").textContent = name;
    const words = [verdict, moved ? "moved" : "", fix ? wordsOf(fix) : problem || "not located yet"];
    this.form.querySelector(".words").textContent = words.filter(Boolean).join(", ");
    this.form.querySelector(".notes").textContent = position ? fix?.notes.join(". ") ?? "" : "";
    this.viewer.show(image.file ?? image.thumbnail, fix?.geometry, heading, name);
  }
}
