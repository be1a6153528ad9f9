// Where in a document the words of an answer stand: a search for runs of words, no model.

// Scripts that put no spaces between words: every character counts as one.
const WORD = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]|[\p{L}\p{N}\p{M}]+/gu;
const SHORTEST = 3, LONG = 5;  // words of a run
const MOST_PLACES = 5;
const AROUND = 90;  // characters of text to both sides

function wordsOf(text) {
  return Array.from(text.matchAll(WORD), (found) => ({
    word: found[0].toLowerCase(), from: found.index, to: found.index + found[0].length,
  }));
}

// A number of four digits and more says something by itself.
const telling = (word) => /^\d{4,}$/.test(word);
// Three words of which none is one of these ("of the one") stand everywhere.
const heavy = (word) => word.length > 4 || /\d/.test(word);

// Of runs of words in both: the longest first, none inside another. -> [{from, to, words}]
function placesOf(answer, text) {
  const said = wordsOf(answer), read = wordsOf(text), starts = new Map();
  for (let at = 0; at < said.length; at += 1) {
    const known = starts.get(said[at].word);
    if (known) known.push(at); else starts.set(said[at].word, [at]);
  }
  const runs = [];
  // Runs that end at the word before, by where in the answer they do.
  let before = new Map();
  const close = (at, length) => {
    const first = at - length;
    const words = read.slice(first, at).map((one) => one.word);
    const says = words.some(telling) || length >= LONG || (length >= SHORTEST && words.some(heavy));
    if (says) runs.push({ first, length });
  };
  for (let at = 0; at <= read.length; at += 1) {
    const now = new Map();
    for (const where of (at < read.length && starts.get(read[at].word)) || []) {
      now.set(where, (before.get(where - 1) || 0) + 1);
    }
    for (const [where, length] of before) if (!now.has(where + 1)) close(at, length);
    before = now;
  }
  runs.sort((one, other) => other.length - one.length || one.first - other.first);
  const found = [];
  for (const run of runs) {
    const last = run.first + run.length;
    if (found.some((one) => run.first < one.last && one.first < last)) continue;
    found.push({ ...run, last, from: read[run.first].from, to: read[last - 1].to, words: run.length });
    if (found.length === MOST_PLACES) break;
  }
  return found.map(({ from, to, words }) => ({ from, to, words }));
}

function showPlace(name, text, place) {
  const line = text.slice(0, place.from).split("\n").length;
  const percent = Math.round(100 * place.from / Math.max(1, text.length));
  const before = text.slice(Math.max(0, place.from - AROUND), place.from);
  const after = text.slice(place.to, place.to + AROUND);
  return element("li", {},
    element("span", { class: "muted", text: `${name}, line ${number(line)} (at ${percent} %): ` }),
    `…${before}`, element("mark", { text: text.slice(place.from, place.to) }), `${after}…`);
}
