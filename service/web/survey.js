// A survey: street images, where each was found, and what the reviewer says about it.
//
// An image has: name (path below its folder), size in bytes, stage (waiting, sending, located or
// failed), problem (text), fix (see fixes.js), moved and turned (the reviewer's position and
// heading), verdict ("", accepted or rejected), note, drive and order (place in a drive),
// thumbnail (Blob), and file, which a reload loses.

const BLANK = {
  size: null, stage: "waiting", problem: "", fix: null, moved: null, turned: null, verdict: "",
  note: "", drive: null, order: 0, thumbnail: null, file: null,
};

export const positionOf = (image) => image.moved ?? image.fix?.position ?? null;
export const headingOf = (image) => image.turned ?? image.fix?.heading_deg ?? null;

// limit: the confidence, 0 to 1, below which a fix is doubtful. An unknown confidence is, too.
export function isDoubtful(image, limit) {
  const { fix, verdict } = image;
  return verdict === "" && positionOf(image) !== null && !(fix?.in_index !== false && fix?.confidence >= limit);
}

export class Survey extends EventTarget {
  // store: see survey_store.js; null keeps nothing.
  constructor(store) {
    super();
    this.store = store;
    this.images = new Map();
  }

  async restore() {
    for (const image of (await this.store?.images()) ?? []) {
      const stage = image.stage === "sending" ? "waiting" : image.stage;
      this.images.set(image.name, { ...BLANK, ...image, stage });
    }
    this.announce([...this.images.values()]);
  }

  // Takes files by their names. A known image gets its file back.
  // Returns the images with new files, and the names that belong to other files already.
  add(named) {
    const taken = [];
    const clashing = [];
    for (const [name, file] of named) {
      const known = this.images.get(name);
      if (known && known.size !== null && known.size !== file.size) {
        clashing.push(name);
        continue;
      }
      const image = known ?? { ...BLANK, name };
      Object.assign(image, { file, size: file.size });
      this.images.set(name, image);
      taken.push(image);
    }
    this.save(taken);
    return { taken, clashing };
  }

  // Takes what poses.csv says; see poses_csv.js.
  merge(poses) {
    const images = poses.map(({ name, ...said }) => Object.assign(
      this.images.get(name) ?? { ...BLANK, name }, said, { stage: "located", problem: "" },
    ));
    for (const image of images) this.images.set(image.name, image);
    this.save(images);
  }

  change(image, fields) {
    Object.assign(image, fields);
    if (this.images.get(image.name) === image) this.save([image]); // else the survey began anew
  }

  save(images) {
    this.store?.save(images.map(({ file, ...kept }) => kept));
    this.announce(images);
  }

  clear() {
    this.images.clear();
    this.store?.clear();
    this.announce([]);
  }

  announce(images) {
    this.dispatchEvent(new CustomEvent("change", { detail: images }));
  }

  // Frames of each drive that has two or more, in the order driven.
  drives() {
    const found = new Map();
    for (const image of this.images.values()) {
      if (image.drive === null) continue;
      if (!found.has(image.drive)) found.set(image.drive, []);
      found.get(image.drive).push(image);
    }
    return [...found.values()].filter((frames) => frames.length > 1)
      .map((frames) => frames.sort((a, b) => a.order - b.order));
  }
}

// The positions of a drive's track: without frames that are rejected or from elsewhere.
export function trackOf(frames) {
  return frames.filter((image) => positionOf(image) && image.verdict !== "rejected"
    && (image.verdict === "accepted" || image.fix?.in_index !== false));
}
