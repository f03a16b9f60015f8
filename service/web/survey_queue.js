// Sends images to the service, a few at a time, and puts the answers into the survey.

import { fixOf, fixOfFrame } from "/web/fixes.js";
import { Problem } from "/web/service.js";
import { thumbnailOf } from "/web/thumbnails.js";

const AT_ONCE = 2; // one is sent while the other is located; more would only be refused
const FORM_BYTES = 4096; // of a form, beside its files
const MIB = 1024 * 1024;

function* formsOf(images, { max_files: mostFiles, max_body_bytes: mostBytes }) {
  let form = [];
  let bytes = 0;
  for (const image of images) {
    const size = image.file.size + FORM_BYTES;
    if (form.length === mostFiles || (form.length && bytes + size > mostBytes)) {
      yield form;
      [form, bytes] = [[], 0];
    }
    form.push(image);
    bytes += size;
  }
  if (form.length) yield form;
}

export class SurveyQueue {
  // settings: max_files and max_body_bytes of a form. onProgress: called after each change.
  constructor(survey, service, settings, onProgress) {
    Object.assign(this, { survey, service, settings, onProgress });
    this.last = Promise.resolve();
    this.pictures = Promise.resolve();
    this.begin();
  }

  begin() {
    this.stopping = new AbortController();
    [this.expected, this.done] = [0, 0];
  }

  get isRunning() {
    return this.done < this.expected && !this.stopping.signal.aborted;
  }

  // query: the hints, as URLSearchParams. Rejects with the Problem that ends the whole work.
  locate(images, query, isDrive) {
    if (!this.isRunning) this.begin();
    const { signal } = this.stopping;
    for (const image of images) this.survey.change(image, { stage: "waiting", problem: "" });
    this.expected += images.length;
    this.onProgress();
    const work = () => (isDrive ? this.drive(images, query, signal) : this.singles(images, query, signal));
    const mine = this.last.then(() => !signal.aborted && work());
    this.last = mine.catch(() => {});
    return mine.catch((error) => {
      if (signal.aborted) return;
      this.cancel();
      throw error;
    });
  }

  // Images without an answer go on waiting.
  cancel() {
    this.stopping.abort();
    for (const image of this.survey.images.values()) {
      if (image.stage === "sending") this.survey.change(image, { stage: "waiting" });
    }
    this.onProgress();
  }

  finish(image, fields) {
    this.survey.change(image, fields);
    this.done += 1;
    this.onProgress();
  }

  async singles(images, query, signal) {
    const waiting = images.values();
    const worker = async () => {
      for (const image of waiting) {
        if (signal.aborted) return;
        await this.single(image, query, signal);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  }

  async single(image, query, signal) {
    const form = await this.formOf([image]);
    if (!form) return;
    try {
      const fix = fixOf(await this.service.ask(`/localize?${query}`, { method: "POST", body: form, signal }));
      if (!signal.aborted) this.finish(image, { stage: "located", fix, problem: "", drive: null });
    } catch (error) {
      if (!(error instanceof Problem) || error.status === 401) throw error;
      this.finish(image, { stage: "failed", problem: error.message });
    }
  }

  // A drive begins anew when the service has forgotten it, as after a restart.
  async drive(images, query, signal) {
    for (let tries = 3; tries > 0; tries -= 1) {
      try {
        await this.held(images.filter((image) => image.stage !== "failed"), query, signal);
        return;
      } catch (error) {
        if (error.status !== 404 || tries === 1) throw error;
        this.done -= images.filter((image) => image.stage === "located").length;
      }
    }
  }

  async held(images, query, signal) {
    const { id } = await this.service.ask("/drives", { method: "POST", signal });
    const sent = [];
    let looked = 0;
    for (const group of formsOf(images, this.settings)) {
      const form = await this.formOf(group);
      if (!form) continue;
      const path = `/drives/${id}/frames?${query}`;
      const { first } = await this.service.ask(path, { method: "POST", body: form, signal });
      if (first !== sent.length) throw new Problem("The drive has other frames", id, 404); // sent twice
      sent.push(...group.filter((image) => image.stage !== "failed"));
      // The answer takes time in proportion to the frames: ask after 16, 32, 64 …
      if (sent.length >= 2 * looked) {
        this.follow(await this.service.ask(`/drives/${id}`, { signal }), sent, id);
        looked = sent.length;
      }
    }
    if (looked < sent.length) this.follow(await this.service.ask(`/drives/${id}`, { signal }), sent, id);
    await this.service.ask(`/drives/${id}`, { method: "DELETE", signal });
  }

  follow({ answer }, sent, id) {
    answer.frames.forEach((frame, number) => {
      const { drive } = frame;
      const order = drive === null ? 0 : answer.drives[drive].frames.indexOf(number);
      const fields = frame.problem
        ? { stage: "failed", problem: `${frame.problem.title}: ${frame.problem.detail}` }
        : { stage: "located", problem: "", fix: fixOfFrame(frame, answer.index_version), drive: `${id} ${drive}`, order };
      const isNew = sent[number].stage === "sending";
      this.survey.change(sent[number], fields);
      this.done += isNew ? 1 : 0;
    });
    this.onProgress();
  }

  // The form with the images whose files can be read; null without any.
  async formOf(images) {
    const form = new FormData();
    for (const image of images) {
      const data = await this.readable(image);
      if (data) form.append("panorama", data, "panorama");
      if (data) this.survey.change(image, { stage: "sending" });
    }
    return form.has("panorama") ? form : null;
  }

  async readable(image) {
    const most = this.settings.max_body_bytes - FORM_BYTES;
    if (image.file.size > most) {
      const problem = `the file has ${(image.file.size / MIB).toFixed(1)} MiB: the service takes ${(most / MIB).toFixed(1)}`;
      this.finish(image, { stage: "failed", problem });
      return null;
    }
    try {
      const data = new Blob([await image.file.arrayBuffer()]);
      this.picture(image);
      return data;
    } catch {
      this.finish(image, { stage: "failed", problem: "the file cannot be read any more: drop it again" });
      return null;
    }
  }

  // One at a time: a decoded panorama may take 500 MB.
  picture(image) {
    if (image.thumbnail) return;
    this.pictures = this.pictures.then(async () => {
      const thumbnail = image.file && await thumbnailOf(image.file);
      if (thumbnail) this.survey.change(image, { thumbnail });
    });
  }
}
