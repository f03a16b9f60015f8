// The service's HTTP API. While the service is busy all requests wait; failures are Problems.

const BUSY = new Set([429, 502, 503, 504]);
const LONGEST_WAIT_S = 30;

export class Problem extends Error {
  constructor(title, detail = "", status = 0) {
    super(detail ? `${title}: ${detail}` : title);
    this.status = status;
  }
}

async function problemOf(response) {
  const { title, detail } = await response.json().catch(() => ({}));
  return new Problem(title ?? response.statusText, detail ?? `status ${response.status}`, response.status);
}

const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

export class Service {
  // onWait: called with a text when requests begin to wait, and with "" when one is answered.
  constructor(onWait) {
    this.onWait = onWait;
    this.until = 0;
    this.key = sessionStorage.getItem("key") ?? "";
  }

  setKey(key) {
    this.key = key.trim();
    sessionStorage.setItem("key", this.key); // until the browser is closed
  }

  // The answer as JSON. Asks again for as long as the service is busy or does not answer.
  async ask(path, { signal, ...options } = {}) {
    for (let tries = 0; ; tries += 1) {
      await this.pause(signal);
      const response = await this.send(path, { signal, ...options });
      if (response?.ok) {
        this.onWait("");
        return response.status === 204 ? null : response.json();
      }
      const problem = response ? await problemOf(response) : new Problem("The service does not answer");
      if (response && !BUSY.has(response.status)) throw problem;
      const seconds = Math.max(Number(response?.headers.get("Retry-After")), Math.min(2 ** tries, LONGEST_WAIT_S));
      this.until = Math.max(this.until, Date.now() + 1000 * seconds);
      this.onWait(`${problem.message}. The page asks again in ${seconds} s.`);
    }
  }

  // Null when there is no connection.
  async send(path, options) {
    const headers = this.key ? { "X-API-Key": this.key } : {};
    try {
      return await fetch(path, { headers, ...options });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      return null;
    }
  }

  async pause(signal) {
    while (Date.now() < this.until) {
      await sleep(Math.min(this.until - Date.now(), 200));
      signal?.throwIfAborted();
    }
  }

  // The URL of a picture of the service. An <img> cannot send the key.
  async picture(path) {
    if (!this.key) return path;
    const response = await this.send(path, {});
    return response?.status === 200 ? URL.createObjectURL(await response.blob()) : "data:,";
  }
}
