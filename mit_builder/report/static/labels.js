// Labels of clips: the inverse of mit_builder/report/clip_data.py.
const waiting = new Map();
const kept = new Map();
const KEPT_CLIPS = 6;

window.mitClip = (name, header, words, bytes) => {
  const wait = waiting.get(name);
  if (wait) decode(header, words, bytes).then(wait.resolve, wait.reject);
};

function loadScript(url) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => { script.remove(); resolve(); };
    script.onerror = () => { script.remove(); reject(new Error(`${url} is not beside this page`)); };
    document.head.append(script);
  });
}

function loadLabels(name) {
  if (!kept.has(name)) {
    kept.set(name, new Promise((resolve, reject) => {
      waiting.set(name, { resolve, reject });
      loadScript(`data/${name}.js`).catch(reject);
    }).finally(() => waiting.delete(name)));
    kept.get(name).catch(() => kept.delete(name));
    if (kept.size > KEPT_CLIPS) kept.delete(kept.keys().next().value);
  }
  return kept.get(name);
}

async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function decode(header, words, bytes) {
  const planes = await inflate(words), flags = await inflate(bytes);
  const { people, frames } = header, half = planes.length / 2;
  let at = 0;
  const take = (width) => {
    const found = new Int16Array(people * frames * width);
    for (let i = 0; i < found.length; i++, at++) {
      const coded = planes[at] | (planes[half + at] << 8);
      const difference = (coded >>> 1) ^ -(coded & 1);
      found[i] = difference + (Math.floor(i / width) % frames ? found[i - width] : 0);
    }
    return found;
  };
  const boxes = take(4), faces = take(4), points = take(266), scores = take(1);
  const nSeen = people * frames * 17, nFlags = people * frames;
  return {
    ...header, boxes, faces, points, scores, human: new Uint8Array(nFlags),
    seen: flags.subarray(0, nSeen),
    model: flags.subarray(nSeen, nSeen + nFlags), // what the model says; corrections are put over a copy of it
    speaking: flags.subarray(nSeen, nSeen + nFlags),
    voice: flags.subarray(nSeen + nFlags, nSeen + nFlags + frames),
  };
}
