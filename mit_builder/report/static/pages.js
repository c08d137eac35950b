// Tabs, theme, the gallery and the rejects.
const PAGE_CLIPS = 24;

// Places are #/TAB/CLIP: no element has such a name, so the browser scrolls nowhere.
const place = () => location.hash.split("/").slice(1).map((part) => { try { return decodeURIComponent(part); } catch { return part; } });

// --- tabs ---
const tabs = [...document.querySelectorAll('[role="tab"]')];
const loaders = { gallery: () => loadList("mitGallery", "gallery.js", startGallery), rejects: () => loadList("mitRejects", "rejects.js", startRejects) };

function openTab(name, focus = false) {
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen && focus) tab.focus();
    if (chosen) tab.parentElement.scrollLeft = tab.offsetLeft - 40;
  }
  for (const video of document.querySelectorAll("[role=tabpanel][hidden] video")) video.pause();
  const load = loaders[name];
  if (load) { delete loaders[name]; load(); }
  else if (name === "gallery") redraw();
  if (place()[0] !== name) history.replaceState(null, "", `#/${name}`);
}

for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => openTab(tab.getAttribute("aria-controls")));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    openTab(tabs.at(to % tabs.length).getAttribute("aria-controls"), true);
  });
}

// --- theme ---
const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a page from a disk may have none */ } };
const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
if (["dark", "light"].includes(stored("mit-theme"))) document.documentElement.dataset.theme = stored("mit-theme");
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  store("mit-theme", document.documentElement.dataset.theme);
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// --- lists ---
function loadList(call, file, start) {
  window[call] = start;
  loadScript(file).catch((error) => $("main").prepend(problem(`${error.message}: write the report again`)));
}

// Cards of one page; `pager` names the elements that turn pages.
function paged(pager, card) {
  const state = { rows: [], page: 0 };
  const n = () => Math.max(1, Math.ceil(state.rows.length / PAGE_CLIPS));
  state.draw = () => {
    closePlayer();
    $(pager.cards).replaceChildren(...state.rows.slice(state.page * PAGE_CLIPS, (state.page + 1) * PAGE_CLIPS).map(card));
    $(pager.page).textContent = `${state.page + 1} of ${n()}`;
    $(pager.before).disabled = state.page === 0;
    $(pager.after).disabled = state.page >= n() - 1;
  };
  state.show = (rows) => { state.rows = rows; state.page = 0; state.draw(); };
  state.turn = (by) => { state.page = Math.max(0, Math.min(n() - 1, state.page + by)); state.draw(); scrollTo({ top: 0 }); };
  $(pager.before).addEventListener("click", () => state.turn(-1));
  $(pager.after).addEventListener("click", () => state.turn(1));
  return state;
}

// Videos of cards are loaded when they come into view, and only as much as their first picture needs.
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    target.src = target.dataset.src;
    seen.unobserve(target);
  }
}, { rootMargin: "200px" });

// --- gallery ---
let clips = [], samples = [], gallery = null;

async function startGallery(rows, drawn) {
  clips = rows;
  samples = drawn;
  const shown = await startReviews();
  gallery = paged({ cards: "cards", page: "page", before: "before", after: "after" }, clipCard);
  for (const n of [...new Set(rows.map((row) => row.people))].sort()) $("people").append(make("option", { value: n }, String(n)));
  for (const [i, sample] of samples.entries()) $("order").append(make("option", { value: `sample ${i}` }, `random sample: ${sample.id}`));
  for (const name of ["find", "people", "order", "which"]) $(name).addEventListener("input", select);
  const at = samples.findIndex((sample) => sample.id === shown);
  if (at >= 0) $("order").value = `sample ${at}`;
  select();
  showReviewing();
  if (place()[1]) openClip(place()[1]);
}

function select() {
  const words = $("find").value.trim().toLowerCase(), people = $("people").value;
  const which = { "": () => true, in: (row) => !row.leftOut, out: (row) => row.leftOut, open: (row) => !reviewOf(row).verdict }[$("which").value];
  const fits = (row) => which(row) && (!people || row.people === Number(people)) && (!words || `${row.id} ${row.title} ${row.url}`.toLowerCase().includes(words));
  gallery.show(ordered(clips.filter(fits), $("order").value));
  $("found").textContent = `${gallery.rows.length} of ${counted(clips.length, "clip")}`;
}

function ordered(rows, order) {
  if (order.startsWith("sample")) {
    const places = new Map(samples[Number(order.split(" ")[1])].clips.map((id, i) => [id, i]));
    return rows.filter((row) => places.has(row.id)).sort((a, b) => places.get(a.id) - places.get(b.id));
  }
  const key = order.replace("-", ""), sign = order.startsWith("-") ? -1 : 1;
  const value = (row) => (key === "body" ? Math.min(...row.body) : row[key] ?? -1);
  return key === "id" ? rows : [...rows].sort((a, b) => sign * (value(a) - value(b)));
}

function clipCard(row) {
  const video = make("video", { preload: "metadata", muted: "", tabindex: "-1", "aria-hidden": "true", "data-src": `${mediaUrl(row.media)}#t=0.5` });
  video.muted = true;
  seen.observe(video);
  const thumb = make("div", { class: "thumb" }, video, make("span", { class: "len" }, seconds(row.frames)), verdictMark(row));
  const bars = make("div", { class: "talks", title: "share of time in which each person speaks" }, ...row.talk.map((share) => {
    const bar = make("i");
    bar.style.setProperty("--share", percent(share).replace(" ", ""));
    return bar;
  }));
  const about = make("div", { class: "about" }, make("b", {}, row.title || row.id), make("span", {}, `${counted(row.people, "person", "people")} · ${counted(row.turns, "turn")} · ${row.id}`), bars);
  const card = make("article", { class: "clip", "data-clip": row.id });
  const button = make("button", { type: "button", class: "show", "aria-label": `Open clip ${row.id}, ${row.title}`, onclick: () => (card.classList.contains("open") ? closePlayer(true) : openPlayer(card, row)) }, thumb, about);
  card.append(button);
  return card;
}

function openClip(id) {
  if (!gallery.rows.some((row) => row.id === id) && clips.some((row) => row.id === id)) {
    for (const name of ["find", "people", "which"]) $(name).value = "";
    $("order").value = "id";
    select();
  }
  const at = gallery.rows.findIndex((row) => row.id === id);
  if (at < 0) return;
  const page = Math.floor(at / PAGE_CLIPS);
  if (page !== gallery.page) { gallery.page = page; gallery.draw(); }
  openPlayer($("cards").children[at % PAGE_CLIPS], gallery.rows[at]);
  history.replaceState(null, "", `#/gallery/${encodeURIComponent(id)}`);
}

function stepClip(by) {
  const at = player ? gallery.rows.indexOf(player.row) + by : 0;
  if (gallery.rows[at]) openClip(gallery.rows[at].id);
}

// --- rejects ---
function startRejects(rows) {
  const list = paged({ cards: "reject-cards", page: "reject-page", before: "reject-before", after: "reject-after" }, rejectCard);
  for (const reason of [...new Set(rows.map((row) => row.reason))]) $("reason").append(make("option", {}, reason));
  const choose = () => {
    list.show(rows.filter((row) => !$("reason").value || row.reason === $("reason").value));
    $("rejected").textContent = counted(list.rows.length, "candidate");
  };
  $("reason").addEventListener("input", choose);
  choose();
}

const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));

function rejectCard(row) {
  const picture = row.picture ? make("img", { src: row.picture, loading: "lazy", alt: `Frame of ${row.id}` }) : make("span", { class: "none" }, "");
  const play = row.media ? make("button", { type: "button", class: "play", "aria-label": `Play ${row.id}`, onclick: () => playReject(row, thumb) }, "\u25b6") : null;
  const thumb = make("div", { class: "thumb" }, picture, make("span", { class: "len" }, seconds(row.frames)), play);
  const measured = Object.entries(row.measured).filter(([, value]) => value !== null).map(([name, value]) => `${name} ${short(value)}`).join(" · ");
  return make("article", { class: "clip" }, thumb,
    make("div", { class: "about reject" }, make("b", {}, `${row.reason}: ${short(row.value)}`), make("span", {}, `${row.setting} is ${short(row.limit)}`),
      make("p", { class: "note" }, measured), make("p", { class: "note" }, row.id)));
}

// A rejected candidate has no file of its own: its stretch of the video is played.
function playReject(row, thumb) {
  const video = make("video", { controls: "", playsinline: "", "aria-label": `Candidate ${row.id}`,
    src: `${mediaUrl(row.media)}#t=${row.start},${row.start + row.frames / 25}` });
  video.addEventListener("error", () => thumb.replaceChildren(problem(`${row.media} cannot be played here. ${row.preview}, in the folder that holds the workspace, makes a video that can.`)));
  thumb.replaceChildren(video);
  video.play().catch(() => { /* the error says more; without a gesture the controls start it */ });
  video.focus();
}

// --- keys ---
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("gallery").hidden || !gallery) return;
  const within = event.target.closest("input, select, textarea, [role=tablist]");
  if (within) return;
  const isButton = event.target.closest("button, a");
  if (isButton && (event.key === " " || event.key === "Enter")) return;
  if (event.key === "n") stepClip(1);
  else if (event.key === "p") stepClip(-1);
  else if (!playerKey(event) && !reviewKey(event)) return;
  event.preventDefault();
});

const goToPlace = () => openTab(["overview", "gallery", "rejects", "costs"].find((name) => place()[0] === name) || "overview");
addEventListener("hashchange", () => {
  if (!location.hash.startsWith("#/")) return; // a jump within the page
  const id = place()[1];
  goToPlace();
  if (id && gallery && place()[0] === "gallery") openClip(id);
});
goToPlace();
