// The files that are dropped or chosen, by their paths below the folder that was given.

// As in service/survey/images.py.
const SUFFIXES = /\.(jpe?g|jpe|mpo|png|webp|hei[cf]|avif|tiff?)$/i;

const asked = (ask) => new Promise((resolve, reject) => { ask(resolve, reject); });

async function* filesIn(entry) {
  if (entry.isFile) {
    yield [entry.fullPath.slice(1), await asked((yes, no) => entry.file(yes, no))];
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await asked((yes, no) => reader.readEntries(yes, no)); // a hundred at a time
    if (!some.length) return;
    for (const inside of some) yield* filesIn(inside);
  }
}

// Pairs of path and file, from a drop event.
export async function filesDropped({ items }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean); // before any await
  const found = [];
  for (const entry of entries) for await (const pair of filesIn(entry)) found.push(pair);
  return found;
}

// Pairs of path and file, from an <input>.
export const filesChosen = ({ files }) => [...files].map((file) => [file.webkitRelativePath || file.name, file]);

// Divides into images, tables and the rest. Images are in the order of their names, which leave out
// a folder that they all share.
export function sorted(found) {
  const seen = found.filter(([path]) => !path.split("/").some((part) => part.startsWith(".")));
  const images = seen.filter(([path]) => SUFFIXES.test(path));
  const tables = seen.filter(([path]) => !path.includes("/") && /\.csv$/i.test(path)).map(([, file]) => file);
  const other = seen.filter(([path]) => !path.includes("/") && !SUFFIXES.test(path) && !/\.csv$/i.test(path));
  const roots = new Set(images.map(([path]) => (path.includes("/") ? path.split("/")[0] : "")));
  const [root] = roots;
  const skip = roots.size === 1 && root ? root.length + 1 : 0;
  const named = images.map(([path, file]) => [path.slice(skip), file]);
  const order = new Intl.Collator(undefined, { numeric: true }).compare;
  return { images: named.sort(([a], [b]) => order(a, b)), tables, other: other.map(([path]) => path) };
}
