// What the survey keeps of the service's answers.

// Of POST /localize.
export function fixOf({ position, radius_m, confidence, in_index, matches, geometry, index_version, note }) {
  const notes = [note, ...Object.values(geometry).map((stated) => stated.note)].filter(Boolean);
  const kept = { position, radius_m, confidence, in_index, matches, geometry, index_version };
  return { ...kept, heading_deg: matches[0]?.heading_deg ?? null, notes };
}

// Of a frame of a drive.
export function fixOfFrame(frame, index_version) {
  const { position, radius_m, confidence, in_index, heading_deg, time } = frame;
  return { position, radius_m, confidence, in_index, heading_deg, time, index_version, matches: [], notes: [] };
}

export const percent = (share) => `${(100 * share).toFixed(0)} %`;

// A fix in words.
export function wordsOf({ position, radius_m, confidence, in_index, notes }) {
  if (!position) return notes.join(" ");
  const words = [`± ${radius_m.toFixed(0)} m`];
  words.push(confidence === null ? "confidence unknown" : `${percent(confidence)} sure`);
  if (in_index === false) words.push("probably not in this index");
  return words.join(", ");
}
