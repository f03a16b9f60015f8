// What the network saw of the chosen image, beside the tile that it matched: both north up, and of
// the same ground. The service explains an image only on request, so this asks when it is open.

import { fixOf } from "/web/fixes.js";
import { Problem } from "/web/service.js";

export class Comparison {
  // element: the <details>. on: candidate(match or null) while the pointer is on it,
  // move(image, match) when it is chosen, query() gives the hints, explained(image, fix).
  constructor(element, service, on) {
    Object.assign(this, { element, service, on, image: null, answers: new WeakMap() });
    [this.tile, this.view, this.below, this.over, this.mask] = element.querySelectorAll("figure img");
    this.slider = element.querySelector("input");
    this.list = element.querySelector("ol");
    this.said = element.querySelector("p");
    this.slider.addEventListener("input", () => this.wipe());
    element.addEventListener("toggle", () => this.show(this.image));
  }

  // ground: metres of a tile, and of the view.
  setGround({ tile_size_m: [, tile], preprocessing }) {
    this.scale = tile / preprocessing.aerial_footprint_m;
  }

  async show(image) {
    const isOther = image !== this.image;
    this.image = image;
    const answer = image && this.answers.get(image);
    this.element.hidden = !image;
    if (!image || !this.element.open) return;
    if (answer && !isOther && this.isShown) return;
    this.isShown = Boolean(answer);
    this.clear(image.file ? "The image is being explained …" : "Drop the folder again: this needs the image itself.");
    if (answer) this.fill(answer);
    else if (image.file) await this.explain(image);
  }

  async explain(image) {
    this.asking?.abort();
    const { signal } = this.asking = new AbortController();
    const form = new FormData();
    form.append("panorama", image.file, "panorama");
    try {
      const path = `/localize?explain=true&${this.on.query()}`;
      const answer = await this.service.ask(path, { method: "POST", body: form, signal });
      this.answers.set(image, answer);
      this.on.explained(image, fixOf(answer));
    } catch (error) {
      if (error instanceof Problem && image === this.image) this.said.textContent = error.message;
    }
    if (image === this.image && this.answers.has(image)) this.show(image);
  }

  clear(text) {
    this.said.textContent = text;
    this.element.querySelector(".seen").hidden = true;
    this.list.replaceChildren();
  }

  fill({ explanation, matches, note }) {
    this.isShown = true;
    this.said.textContent = note ?? "";
    this.element.querySelector(".seen").hidden = !explanation;
    if (!explanation) return;
    for (const image of [this.view, this.over]) image.src = explanation.projected;
    this.mask.parentElement.hidden = !explanation.attention;
    this.mask.src = explanation.attention ?? "data:,";
    for (const image of [this.tile, this.below]) image.style.transform = `scale(${this.scale})`;
    this.list.replaceChildren(...matches.map((match) => this.candidate(match)));
    this.choose(matches[0]);
    this.wipe();
  }

  candidate(match) {
    const item = document.getElementById("candidate").content.firstElementChild.cloneNode(true);
    const [button, tile, words] = item.querySelectorAll("button, img, span");
    this.paint(tile, match, 128);
    words.textContent = `${match.rank}: ${match.distance.toFixed(2)}`;
    button.title = `Move the place to candidate ${match.rank}`;
    for (const event of ["mouseenter", "focus"]) {
      button.addEventListener(event, () => {
        this.choose(match);
        this.on.candidate(match);
      });
    }
    for (const event of ["mouseleave", "blur"]) button.addEventListener(event, () => this.on.candidate(null));
    button.addEventListener("click", () => this.on.move(this.image, match));
    return item;
  }

  choose(match) {
    for (const image of [this.tile, this.below]) this.paint(image, match, 256);
    this.tile.alt = `aerial tile of candidate ${match.rank}`;
  }

  async paint(image, match, pixels) {
    image.src = await this.service.picture(`/tiles/${encodeURIComponent(match.tile_id)}.jpg?pixels=${pixels}`);
  }

  wipe() {
    this.over.style.clipPath = `inset(0 0 0 ${this.slider.value}%)`;
  }
}
