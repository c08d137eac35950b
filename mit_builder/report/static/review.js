// Verdicts on clips and corrections of who speaks: kept by the review server, else in this browser until exported.
const served = document.documentElement.dataset.served === "yes";
const shelf = `mit-reviews:${document.documentElement.dataset.workspace}`;
let reviewing = served;
let lastReason = "";
let drafts = {};
let confirmed = {}; // verdicts as the server keeps them
const unsaved = new Set(); // clips whose verdict it did not take
let saving = Promise.resolve();

async function startReviews() {
  if (!served) {
    drafts = shelved();
    showReviewing();
    return null;
  }
  try {
    const { reviews, sample } = await ask();
    confirmed = Object.fromEntries(reviews.map((review) => [review.clip_id, review]));
    drafts = { ...confirmed };
    return sample;
  } catch (error) {
    $("gallery").prepend(problem(`The verdicts given before cannot be read: ${error.message}. Reload this page.`));
    return null;
  }
}

function shelved() {
  try { return JSON.parse(stored(shelf)) || {}; } catch { return {}; }
}

// What the review server says, an error where it refuses.
async function ask(options) {
  const answer = await fetch("../reviews.json", options).catch(() => { throw new Error("the review server does not answer"); });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(said.problem || `the review server answers ${answer.status}`), said);
  return said;
}

// What is said of a clip; corrections of people who were found anew since are those that the report could carry over.
function reviewOf(row) {
  const draft = drafts[row.id], same = { people: row.peopleKey, labels: row.labelsKey };
  if (draft && draft.people === row.peopleKey) {
    return { ...draft, ...same, corrections: [...draft.corrections], labels_checked: draft.labels_checked && draft.labels === row.labelsKey };
  }
  const known = draft || row.review || {};
  return { clip_id: row.id, verdict: known.verdict ?? null, reason: known.reason ?? "", corrections: row.corrections.map((c) => ({ ...c })),
    labels_checked: Boolean(row.review?.checked), ...same };
}

function keepReview(row, review) {
  if (served) {
    drafts[row.id] = review;
    showReview(row);
    say("saving");
    saving = saving.then(() => send(row, review));
    return;
  }
  drafts = { ...shelved(), [row.id]: review }; // with what other tabs have kept since
  store(shelf, JSON.stringify(drafts));
  showReview(row);
  say(stored(shelf) === null ? "this browser keeps nothing: export before you leave" : "kept in this browser: export when done");
  showReviewing();
}

async function send(row, review) {
  if (drafts[row.id] !== review) return; // a later one says all of it
  const { words, failed } = await ask({ method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ review, instead_of: confirmed[row.id] ?? null }) }).then(
    ({ saved }) => { confirmed[row.id] = saved; return { words: "saved", failed: false }; },
    (error) => {
      if (error.kept === undefined) return { words: `not saved: ${error.message}`, failed: true };
      if (error.kept) confirmed[row.id] = drafts[row.id] = error.kept; // another tab was faster: its verdict is shown
      else { delete confirmed[row.id]; delete drafts[row.id]; }
      return { words: `not saved: ${error.message}`, failed: false };
    });
  if (failed) unsaved.add(row.id); else unsaved.delete(row.id);
  showReview(row);
  if (player?.row === row) say(words);
  else if (words !== "saved") $("gallery").prepend(problem(`The verdict on ${row.id} is ${words}`));
}

function showReview(row) {
  if (player?.row === row) { applyCorrections(); fillPanel(); }
  $("cards").querySelector(`[data-clip="${row.id}"]`)?.querySelector(".mark")?.replaceWith(verdictMark(row));
}

const say = (words) => { const said = document.querySelector(".said"); if (said) said.textContent = words; };

function verdictMark(row) {
  const { verdict, corrections } = reviewOf(row);
  const words = [verdict && { accept: "accepted", reject: "rejected" }[verdict], corrections.length ? "corrected" : null, !verdict && row.leftOut, unsaved.has(row.id) && "not saved"].filter(Boolean);
  return make("span", { class: `mark ${verdict || ""}` }, words.join(", "));
}

// --- labels with corrections ---
function applyCorrections() {
  const { labels, row } = player;
  if (!labels) return;
  labels.speaking = labels.model.slice();
  labels.human = new Uint8Array(labels.model.length);
  for (const { person_id: person, start_frame: start, end_frame: end, speaking } of reviewOf(row).corrections) {
    labels.speaking.fill(speaking ? 1 : 0, person * labels.frames + start, person * labels.frames + end);
    labels.human.fill(1, person * labels.frames + start, person * labels.frames + end);
  }
  for (let person = 0; person < labels.people; person++) {
    const mine = labels.speaking.subarray(person * labels.frames, (person + 1) * labels.frames);
    player.shares[person].textContent = `speaks ${percent(mine.reduce((sum, x) => sum + x, 0) / labels.frames)}`;
  }
  redraw();
}

function correct(speaking) {
  const { labels, row, span } = player;
  const start = Math.min(span.from, span.to), end = Math.max(span.from, span.to);
  if (!labels || start === end) return say("first mark a span: [ where it begins, ] where it ends, or drag with Shift on a strip");
  const face = boxAt(labels.faces, span.person * labels.frames + Math.floor((start + end) / 2), 1);
  const review = reviewOf(row);
  review.corrections.push({ person_id: span.person, start_frame: start, end_frame: end, speaking,
    face_x_px: (face[0] + face[2]) / 2, face_y_px: (face[1] + face[3]) / 2 });
  keepReview(row, review);
}

function undo(at) {
  const review = reviewOf(player.row);
  review.corrections.splice(at ?? -1, 1);
  keepReview(player.row, review);
}

function judge(verdict) {
  const review = reviewOf(player.row);
  review.verdict = review.verdict === verdict ? null : verdict;
  review.reason = review.verdict === "reject" ? lastReason : "";
  keepReview(player.row, review);
}

function check() {
  const review = reviewOf(player.row);
  review.labels_checked = !review.labels_checked;
  keepReview(player.row, review);
}

function mark(part) {
  const { span, frame } = player;
  span[part] = part === "to" ? frame + 1 : frame;
  if (span.to <= span.from) span[part === "to" ? "from" : "to"] = part === "to" ? frame : frame + 1;
  showSpan();
}

function choosePerson(person) {
  if (!player.labels || person >= player.labels.people) return;
  player.span.person = person;
  showSpan();
}

function showSpan() {
  const { span, mark: band, canvases, row, strips, panel } = player;
  if (!band || !reviewing) return;
  const strip = canvases[span.person].canvas, zoom = strip.clientWidth / row.frames;
  Object.assign(band.style, { display: span.to > span.from ? "block" : "none", top: `${strip.offsetTop}px`, height: `${strip.clientHeight}px`,
    left: `${span.from * zoom}px`, width: `${(span.to - span.from) * zoom}px` });
  panel.querySelector(".chosen").textContent = `P${span.person}, frames ${span.from} to ${span.to}`;
}

// --- the panel beside a clip ---
function reviewPanel(row) {
  const button = (words, key, name, act) => make("button", { type: "button", "data-does": name, onclick: act }, words, " ", make("kbd", {}, key));
  const reason = make("input", { type: "text", list: "reasons", maxlength: "200", placeholder: "reason", "aria-label": "Reason of a rejection" });
  reason.addEventListener("change", () => {
    lastReason = reason.value;
    const review = reviewOf(row);
    if (review.verdict === "reject") { review.reason = reason.value; keepReview(row, review); }
  });
  return make("div", { class: "review" },
    make("div", { class: "tools" }, button("Accept", "a", "accept", () => judge("accept")), button("Reject", "r", "reject", () => judge("reject")), reason),
    make("div", { class: "tools" }, make("span", { class: "chosen" }), button("from here", "[", "from", () => mark("from")), button("to here", "]", "to", () => mark("to")),
      button("speaks", "t", "speaks", () => correct(true)), button("is quiet", "q", "quiet", () => correct(false)), button("undo", "u", "undo", () => undo())),
    make("ol", { class: "corrections" }),
    make("div", { class: "tools" }, button("Labels checked", "l", "checked", check)),
    make("p", { class: "note" }, "A digit, or a click on a strip, chooses a person. Labels checked: I have watched the whole clip, and who speaks is now right."),
    make("p", { class: "said note", role: "status" }));
}

function fillPanel() {
  const { panel, row } = player;
  if (!panel) return;
  panel.hidden = !reviewing;
  const review = reviewOf(row);
  const press = (name, on) => panel.querySelector(`[data-does="${name}"]`).setAttribute("aria-pressed", String(on));
  press("accept", review.verdict === "accept");
  press("reject", review.verdict === "reject");
  press("checked", review.labels_checked);
  if (review.verdict === "reject") panel.querySelector("input").value = review.reason;
  panel.querySelector(".corrections").replaceChildren(...review.corrections.map((c, at) => make("li", {},
    `P${c.person_id} ${c.speaking ? "speaks" : "is quiet"} in frames ${c.start_frame} to ${c.end_frame} `,
    make("button", { type: "button", "aria-label": "Remove this correction", onclick: () => undo(at) }, "×"))));
  showSpan();
}

const reviewKeys = {
  a: () => judge("accept"), r: () => judge("reject"), l: check, u: () => undo(), t: () => correct(true), q: () => correct(false),
  "[": () => mark("from"), "]": () => mark("to"),
};

function reviewKey(event) {
  if (!player || !reviewing) return false;
  if (/^[0-9]$/.test(event.key)) choosePerson(Number(event.key));
  else if (reviewKeys[event.key]) reviewKeys[event.key]();
  else return false;
  return true;
}

// Pressing on a person's strip chooses the person; with Shift a span begins there, true then.
function beginSpan(event) {
  const person = player.canvases?.findIndex(({ canvas }) => canvas === event.target) ?? -1;
  if (!reviewing || person < 0 || person >= player.labels.people) return false;
  choosePerson(person);
  if (!event.shiftKey) return false;
  const frame = clamped(frameAt(event));
  player.span = { person, from: frame, to: frame, anchor: frame };
  showSpan();
  return true;
}

function stretchSpan(event) {
  const { span } = player, frame = clamped(frameAt(event));
  span.from = Math.min(span.anchor, frame);
  span.to = Math.max(span.anchor, frame + 1);
  showSpan();
}

const clamped = (frame) => Math.max(0, Math.min(player.row.frames - 1, frame));

// --- verdicts as a file ---
function showReviewing() {
  $("reviewing").hidden = served;
  $("reviewing").setAttribute("aria-pressed", String(reviewing));
  const n = Object.keys(drafts).length;
  $("export").hidden = served || !reviewing || !n;
  $("export").textContent = `Export ${n} verdict${n === 1 ? "" : "s"}`;
  $("review-keys").hidden = !reviewing;
}

$("reviewing").addEventListener("click", () => {
  reviewing = !reviewing;
  showReviewing();
  if (player) fillPanel();
});
$("export").addEventListener("click", () => {
  const text = JSON.stringify({ format: "mit-builder-reviews", version: 1, reviews: Object.values(drafts) }, null, 1);
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: url, download: `reviews-${document.documentElement.dataset.workspace}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
});
if (!served) {
  window.addEventListener("storage", (event) => {
    if (event.key !== shelf || !gallery) return;
    drafts = shelved();
    showReviewing();
    for (const row of clips) showReview(row);
  });
}
