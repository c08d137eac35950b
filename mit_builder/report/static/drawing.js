// Boxes and skeletons over a frame, and score strips.
const SPEAKS = "#28dc5a", LISTENS = "#c9cdd2";
const PERSON_COLOURS = ["#ffa028", "#46beff", "#f064dc", "#fae650"];
const colourOf = (person) => PERSON_COLOURS[person % PERSON_COLOURS.length];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const pen = canvas.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

function drawPeople(canvas, labels, frame, show) {
  const pen = fitted(canvas), zoom = canvas.width / labels.width, line = Math.max(1.5, canvas.width / 420);
  for (let person = 0; person < labels.people; person++) {
    const row = person * labels.frames + frame;
    if (show.skeletons) drawSkeleton(pen, labels, row, person, zoom, line);
    if (show.boxes) drawBoxes(pen, labels, row, person, zoom, line, canvas);
  }
}

const boxAt = (array, row, zoom) => Array.from(array.subarray(row * 4, row * 4 + 4), (v) => (v / 4) * zoom);

function drawBoxes(pen, labels, row, person, zoom, line, canvas) {
  const speaks = labels.speaking[row] === 1;
  pen.strokeStyle = speaks ? SPEAKS : LISTENS;
  pen.lineWidth = speaks ? 2 * line : line;
  const [x0, y0, x1, y1] = boxAt(labels.faces, row, zoom);
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  corners(pen, boxAt(labels.boxes, row, zoom));
  const words = speaks ? `P${person} speaks` : `P${person}`, size = Math.max(12, canvas.width / 48);
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const width = pen.measureText(words).width + 8;
  const x = Math.min(Math.max(0, x0), canvas.width - width), y = Math.max(size + 6, y0 - 2);
  pen.fillStyle = speaks ? SPEAKS : LISTENS;
  pen.fillRect(x - line / 2, y - size - 5, width, size + 6);
  pen.fillStyle = "#10140f";
  pen.fillText(words, x + 4, y - 4);
}

function corners(pen, [x0, y0, x1, y1]) {
  const arm = Math.max(6, Math.min(x1 - x0, y1 - y0) / 8);
  pen.beginPath();
  for (const [x, y, dx, dy] of [[x0, y0, arm, arm], [x1, y0, -arm, arm], [x0, y1, arm, -arm], [x1, y1, -arm, -arm]]) {
    pen.moveTo(x + dx, y); pen.lineTo(x, y); pen.lineTo(x, y + dy);
  }
  pen.stroke();
}

function drawSkeleton(pen, labels, row, person, zoom, line) {
  const at = (i) => [(labels.points[row * 266 + 2 * i] / 4) * zoom, (labels.points[row * 266 + 2 * i + 1] / 4) * zoom];
  const seen = (i) => (labels.seen[row * 17 + (i >> 3)] >> (i & 7)) & 1;
  pen.strokeStyle = pen.fillStyle = colourOf(person);
  for (const [a, b] of SKELETON) {
    if (!seen(a) || !seen(b)) continue;
    pen.lineWidth = Math.max(a, b) < 23 ? line : line / 2;
    pen.beginPath(); pen.moveTo(...at(a)); pen.lineTo(...at(b)); pen.stroke();
  }
  for (let i = 0; i < 133; i++) {
    if (!seen(i)) continue;
    const [x, y] = at(i);
    pen.beginPath(); pen.arc(x, y, i < 23 ? 1.4 * line : line / 2, 0, 7); pen.fill();
  }
}

function drawStrip(canvas, labels, person, limit) {
  const pen = fitted(canvas), { width, height } = canvas, x = (frame) => (frame / labels.frames) * width;
  pen.fillStyle = css("--strip"); pen.fillRect(0, 0, width, height);
  pen.fillStyle = css("--speaks");
  for (let frame = 0; frame < labels.frames; frame++) {
    if (labels.speaking[person * labels.frames + frame]) pen.fillRect(Math.floor(x(frame)), 0, Math.ceil(x(frame + 1)) - Math.floor(x(frame)), height);
  }
  pen.fillStyle = css("--human");
  for (let frame = 0; frame < labels.frames; frame++) {
    if (labels.human[person * labels.frames + frame]) pen.fillRect(Math.floor(x(frame)), height - 4, Math.ceil(x(frame + 1)) - Math.floor(x(frame)), 4);
  }
  pen.fillStyle = css("--line"); pen.fillRect(0, height / 2, width, 1);
  const score = (frame) => Math.max(-1, Math.min(1, labels.scores[person * labels.frames + frame] / limit));
  curve(pen, labels.frames, x, (frame) => height / 2 - score(frame) * (height / 2 - 3), css("--ink"));
}

function drawVoice(canvas, labels) {
  const pen = fitted(canvas), { width, height } = canvas, x = (frame) => (frame / labels.frames) * width;
  pen.fillStyle = css("--strip"); pen.fillRect(0, 0, width, height);
  const y = (share) => height - 2 - share * (height - 4);
  pen.fillStyle = css("--line"); pen.fillRect(0, y(labels.voiceGate), width, 1);
  curve(pen, labels.frames, x, (frame) => y(labels.voice[frame] / 255), css("--accent"));
}

function curve(pen, n, x, y, colour) {
  pen.strokeStyle = colour; pen.lineWidth = 1.3 * (window.devicePixelRatio || 1);
  pen.beginPath();
  for (let frame = 0; frame < n; frame++) pen.lineTo(x(frame + 0.5), y(frame));
  pen.stroke();
}

function scoreLimit(labels) {
  const sizes = Array.from(labels.scores, Math.abs).sort((a, b) => a - b);
  return Math.max(100, sizes[Math.floor(sizes.length * 0.99)] || 0);
}
