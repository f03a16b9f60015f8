// Keeps the survey in this browser (IndexedDB). Nothing of a review goes to the server.

const TABLE = "images";

const answered = (request) => new Promise((resolve, reject) => {
  request.addEventListener("success", () => resolve(request.result));
  request.addEventListener("error", () => reject(request.error));
});

export class SurveyStore {
  // Rejects where the browser keeps nothing, as some do in private windows.
  static async open(name = "skyfix") {
    const request = indexedDB.open(name, 1);
    request.addEventListener("upgradeneeded", () => {
      request.result.createObjectStore(TABLE, { keyPath: "name" });
    });
    return new SurveyStore(await answered(request));
  }

  constructor(database) {
    this.database = database;
  }

  images() {
    return answered(this.database.transaction(TABLE).objectStore(TABLE).getAll());
  }

  // Commits at once: the page may be closed next.
  save(images) {
    this.write((table) => images.forEach((image) => table.put(image)));
  }

  clear() {
    this.write((table) => table.clear());
  }

  write(change) {
    const transaction = this.database.transaction(TABLE, "readwrite");
    change(transaction.objectStore(TABLE));
    transaction.commit();
  }
}
