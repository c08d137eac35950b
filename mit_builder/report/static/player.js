// One clip, playing: overlay, strips with a playhead, keys.
const $ = (id) => document.getElementById(id);
const show = { boxes: true, skeletons: true };
let player = null; // the open clip: { row, labels, video, frame, seek, close }

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
};

const seconds = (frames, fps = 25) => `${(frames / fps).toFixed(1)} s`;
const percent = (share) => `${Math.round(100 * share)} %`;
const counted = (n, noun, plural = `${noun}s`) => `${n} ${n === 1 ? noun : plural}`;
const mediaUrl = (key) => "../" + key.split("/").map(encodeURIComponent).join("/");

function openPlayer(card, row) {
  closePlayer();
  const video = make("video", { src: mediaUrl(row.media), preload: "auto", playsinline: "", "aria-label": `Clip ${row.id}` });
  const canvas = make("canvas", { "aria-hidden": "true" });
  const screen = make("div", { class: "screen" }, video, canvas);
  screen.style.aspectRatio = `${row.width} / ${row.height}`;
  screen.style.maxWidth = `calc(66vh * ${row.width / row.height})`;
  const clock = make("output", { "aria-live": "off" });
  const play = make("button", { type: "button", "data-does": "play", onclick: () => toggle(video) }, "Play");
  const press = (name, words) => make("button", { type: "button", "aria-pressed": String(show[name]), "data-does": name, onclick: () => flip(name) }, words);
  const sound = make("button", { type: "button", "aria-pressed": "true", "data-does": "sound", onclick: () => mute(video) }, "Sound");
  const tools = make("div", { class: "tools" }, play, press("boxes", "Boxes"), press("skeletons", "Skeletons"), sound,
    make("button", { type: "button", onclick: () => closePlayer(true) }, "Close"), clock);
  const strips = make("div", { class: "strips", role: "slider", tabindex: "0", "aria-label": "Position in the clip, in frames",
    "aria-valuemin": "0", "aria-valuemax": String(row.frames - 1), "aria-valuenow": "0" });
  const panel = reviewPanel(row);
  const side = make("div", {}, factsOf(row), strips, panel);
  const body = make("div", { class: "player" }, make("div", {}, screen, tools), side);
  card.classList.add("open");
  card.append(body);
  const mine = player = { card, row, labels: null, video, canvas, strips, clock, play, frame: 0, wanted: 0, side, panel, shares: [], span: { person: 0, from: 0, to: 0 } };
  player.seek = (frame) => {
    mine.wanted = Math.max(0, Math.min(row.frames - 1, frame));
    video.currentTime = middleOf(mine.wanted);
    moveHead(mine.wanted);
  };
  video.addEventListener("play", () => { play.textContent = "Pause"; });
  video.addEventListener("pause", () => { play.textContent = "Play"; });
  video.addEventListener("click", () => toggle(video));
  video.addEventListener("error", () => side.append(problem(`The video ${row.media} cannot be shown here.`)));
  // A drag keeps its pointer until it ends, wherever that is, so nothing sticks; it does throughout what it began with.
  let drag = null;
  strips.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || drag) return;
    strips.setPointerCapture(event.pointerId);
    drag = { pointer: event.pointerId, marks: beginSpan(event) };
    if (!drag.marks) mine.seek(frameAt(event));
  });
  strips.addEventListener("pointermove", (event) => {
    if (drag?.pointer !== event.pointerId || player !== mine) return;
    if (drag.marks) stretchSpan(event); else mine.seek(frameAt(event));
  });
  strips.addEventListener("lostpointercapture", () => { drag = null; });
  watchFrames(mine);
  loadLabels(row.data).then((labels) => showLabels(labels, row), (error) => side.append(problem(error.message)));
  card.scrollIntoView({ block: "nearest" });
  strips.focus({ preventScroll: true });
}

const middleOf = (frame) => (frame + 0.5) / 25;

const problem = (words) => make("p", { class: "problem", role: "alert" }, words);

function factsOf(row) {
  const link = /^https?:\/\//.test(row.url) ? make("a", { href: row.url, rel: "noreferrer noopener", target: "_blank" }, row.url) : row.url;
  return make("div", { class: "facts" }, make("h3", {}, row.title || row.id), make("p", {}, link),
    make("p", {}, `${row.id} · from ${row.start} s · ${seconds(row.frames)} · ${row.width}x${row.height}`),
    make("p", {}, `${counted(row.turns, "turn")} · silence ${percent(row.silence)} · overlap ${row.overlap === null ? "–" : percent(row.overlap)} · labels: ${row.tier}${row.licence ? ` · ${row.licence}` : ""}`));
}

function showLabels(labels, row) {
  if (!player || player.row !== row) return;
  player.labels = labels;
  player.limit = scoreLimit(labels);
  player.canvases = [];
  const name = (text, value, colour) => {
    const title = make("b", {}, text);
    if (colour) title.style.color = colour;
    const said = make("span", {}, value);
    player.shares.push(said);
    return make("div", { class: "strip-name" }, title, said);
  };
  for (let person = 0; person < labels.people; person++) {
    player.canvases.push(strip(46, (canvas) => drawStrip(canvas, labels, person, player.limit)));
    player.strips.append(name(`Person ${person}`, ""), player.canvases.at(-1).canvas);
  }
  player.canvases.push(strip(26, (canvas) => drawVoice(canvas, labels)));
  player.strips.append(name("Voice activity", "threshold as a line"), player.canvases.at(-1).canvas);
  player.head = make("div", { class: "head" });
  player.mark = make("div", { class: "span" });
  player.strips.append(player.mark, player.head);
  applyCorrections();
  fillPanel();
}

function strip(height, draw) {
  const canvas = make("canvas", { "aria-hidden": "true" });
  canvas.style.height = `${height}px`;
  return { canvas, draw };
}

function redraw() {
  if (!player || !player.labels) return;
  for (const { canvas, draw } of player.canvases) draw(canvas);
  showSpan();
  moveHead(player.frame);
}

function moveHead(frame) {
  player.frame = frame;
  const { strips, labels, row, clock, head, canvas } = player;
  clock.textContent = `${(frame / 25).toFixed(2)} s · frame ${frame}`;
  strips.setAttribute("aria-valuenow", String(frame));
  strips.setAttribute("aria-valuetext", `${(frame / 25).toFixed(2)} seconds`);
  if (head) head.style.left = `${((frame + 0.5) / row.frames) * strips.clientWidth - 1}px`;
  if (labels) drawPeople(canvas, labels, frame, show);
}

function watchFrames(mine) {
  const { video, row } = mine;
  const shown = (timeS) => {
    if (player !== mine || video.seeking) return;
    // With filter.media_fps=source a picture may last several frames of the labels, or be one of several for one: where
    // the video stands at the frame that was asked for, that one is meant.
    const asked = Math.abs(video.currentTime - middleOf(mine.wanted)) < 1e-3;
    moveHead(asked ? mine.wanted : Math.max(0, Math.min(row.frames - 1, Math.round(timeS * 25))));
  };
  if (video.requestVideoFrameCallback) {
    const next = (now, data) => { shown(data.mediaTime); if (player === mine) video.requestVideoFrameCallback(next); };
    video.requestVideoFrameCallback(next);
  } else {
    const next = () => { shown(video.currentTime - 0.5 / 25); if (player === mine) requestAnimationFrame(next); };
    requestAnimationFrame(next);
  }
}

const frameAt = (event) => {
  const box = player.strips.getBoundingClientRect();
  return Math.floor(((event.clientX - box.left) / box.width) * player.row.frames);
};

const toggle = (video) => { if (video.paused) video.play().catch(() => {}); else video.pause(); };

function flip(name) {
  show[name] = !show[name];
  document.querySelector(`[data-does="${name}"]`)?.setAttribute("aria-pressed", String(show[name]));
  if (player) moveHead(player.frame);
}

function mute(video) {
  video.muted = !video.muted;
  document.querySelector('[data-does="sound"]')?.setAttribute("aria-pressed", String(!video.muted));
}

function closePlayer(refocus = false) {
  if (!player) return;
  const { card, video } = player;
  player = null;
  video.pause();
  video.removeAttribute("src");
  video.load();
  card.querySelector(".player").remove();
  card.classList.remove("open");
  if (refocus) card.querySelector(".show").focus();
}

function playerKey(event) {
  if (!player) return false;
  const { video, seek } = player, frame = video.seeking ? player.wanted : player.frame, step = event.shiftKey ? 25 : 1;
  const acts = {
    " ": () => toggle(video),
    ArrowLeft: () => { video.pause(); seek(frame - step); },
    ArrowRight: () => { video.pause(); seek(frame + step); },
    Home: () => seek(0),
    End: () => seek(player.row.frames - 1),
    b: () => flip("boxes"),
    s: () => flip("skeletons"),
    m: () => mute(video),
    Escape: () => closePlayer(true),
  };
  if (!acts[event.key]) return false;
  acts[event.key]();
  return true;
}

window.addEventListener("resize", redraw);
