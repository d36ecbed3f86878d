"use strict";

// A photo comes in (chosen, taken, dropped, pasted, or one of the catalogue), is searched with, and the nearest
// articles are shown. All that a label or a message says goes in as text, never as markup.

const UPLOADED = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff"];
const LONGEST = 1600;        // pixels that are sent of a large photo: the model sees fewer
const SMALL = 700_000;       // bytes that are sent as they are
const EXAMPLES = 6;
const PATIENCE = 40_000;     // milliseconds

const $ = (id) => document.getElementById(id);
const limits = { max_upload: 10_000_000, max_pixels: 40_000_000 };
let running = null;          // the search in work, to be ended by the next one
let last = null;             // the photo asked with, for another try

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawing(viewBox, name, attributes) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
  svg.setAttribute("viewBox", viewBox);
  svg.setAttribute("aria-hidden", "true");
  if (name === "rect") svg.setAttribute("preserveAspectRatio", "none");
  svg.append(shape);
  return svg;
}

const percent = (share) => share > 0.99 && share < 1 ? "over 99 %" : share < 0.01 ? "under 1 %" : `${Math.round(100 * share)} %`;
const many = (count, one, more) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;
const megabytes = (bytes) => `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;

// An error whose text is meant for the reader; `again` where another try may help.
class Plain extends Error {
  constructor(text, again = false) { super(text); this.again = again; }
}

// ---- the photo -------------------------------------------------------------------------------------------------

async function scaled(photo) {
  const bitmap = await createImageBitmap(photo);
  const { width, height } = bitmap;
  const share = Math.min(1, LONGEST / Math.max(width, height), Math.sqrt(limits.max_pixels / (width * height)));
  const canvas = element("canvas");
  canvas.width = Math.max(1, Math.floor(width * share));
  canvas.height = Math.max(1, Math.floor(height * share));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // a JPEG has no transparency; the service puts it on white too
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((done) => canvas.toBlob((blob) => done(blob || photo), "image/jpeg", 0.92));
}

async function prepared(photo) {
  if (photo.size === 0) throw new Plain("This photo is empty. Choose another one.");
  let sent = photo;
  if (photo.size > SMALL || !UPLOADED.includes(photo.type)) {
    sent = await scaled(photo).catch(() => photo); // what the browser cannot read, the service may
  }
  if (sent.size > limits.max_upload) {
    throw new Plain(`This photo is too large: ${megabytes(sent.size)}, and ${megabytes(limits.max_upload)} are allowed. Choose a smaller one.`);
  }
  return sent;
}

function show(photo, name) {
  const image = $("query-photo"), box = image.parentElement;
  URL.revokeObjectURL(image.src);
  box.querySelector(".none")?.remove();
  image.hidden = false;
  image.onerror = () => {
    image.hidden = true;
    if (!box.querySelector(".none")) box.append(element("span", { class: "none" }, "no preview"));
  };
  image.src = URL.createObjectURL(photo);
  image.alt = `The photo you asked with: ${name}`;
  $("query-name").textContent = name;
  $("query").hidden = false;
  $("lead").textContent = "Drop or paste another photo";
  $("choose").textContent = "Choose another";
  document.body.classList.add("asked");
}

// ---- the search ------------------------------------------------------------------------------------------------

async function search(photo, name) {
  running?.abort();
  const mine = running = new AbortController();
  const patience = setTimeout(() => mine.abort(new DOMException("too long", "TimeoutError")), PATIENCE);
  last = { photo, name };
  complain(null);
  try {
    if (photo.type && !photo.type.startsWith("image/")) throw new Plain(`“${name}” is not a photo. Choose an image file.`);
    show(photo, name);
    busy(true);
    tell("Searching …");
    const narrow = matchMedia("(max-width: 859px)").matches;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (narrow) $("ask").scrollIntoView({ behavior: calm ? "auto" : "smooth" });
    const answer = await asked(await prepared(photo), mine.signal);
    if (mine === running) list(answer);
  } catch (error) {
    if (mine === running && error.name !== "AbortError") fail(error);
  } finally {
    clearTimeout(patience);
    if (mine === running) busy(false);
  }
}

async function asked(photo, signal) {
  const form = new FormData();
  form.append("photo", photo, "photo");
  form.append("k", $("k").value);
  return json(await fetch("/search", { method: "POST", body: form, signal }));
}

async function json(response) {
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  const told = content.error || `status ${response.status}`;
  throw new Plain(`${told[0].toUpperCase()}${told.slice(1)}.`, response.status >= 500 || response.status === 408);
}

function fail(error) {
  let text = error instanceof Plain ? error.message : null;
  if (!text && error.name === "TimeoutError") text = "The answer took too long. Try again in a moment.";
  if (!text && !navigator.onLine) text = "You are offline. Connect, and try again.";
  if (!text && error instanceof TypeError) text = "The service cannot be reached. Look at your connection, and try again.";
  complain(text || "Something went wrong on this page. Try again.", !(error instanceof Plain) || error.again);
}

function complain(text, again = false) {
  $("error").hidden = text === null;
  $("error-text").textContent = text || "";
  $("again").hidden = last === null || !again;
  if (text === null) return;
  document.body.classList.add("asked");
  tell("");
  $("hits").replaceChildren();
  $("legend").hidden = true;
}

function busy(yes) {
  document.body.classList.toggle("busy", yes);
  $("results").setAttribute("aria-busy", String(yes));
}

function tell(text) {
  $("status").textContent = text;
}

// ---- the answer ------------------------------------------------------------------------------------------------

function list(answer) {
  $("hits").replaceChildren(...answer.hits.map(card));
  const best = answer.hits[0];
  if (!best) return tell("The catalogue is empty.");
  const likely = best.probability === null ? `score ${best.score.toFixed(2)}` : `${percent(best.probability)} likely`;
  tell(`${many(answer.hits.length, "article", "articles")}; the nearest: ${best.label}, ${likely}`);
  $("legend").hidden = false;
  $("legend").textContent = (answer.threshold === null
    ? "Score: how near the photos are, 1 is equal. "
    : `Score: how near the photos are, 1 is equal; from ${answer.threshold.toFixed(2)} on it may be the same article. `)
    + "Choose a found photo to search with it.";
}

// A long name may break after its joints; `wbr` leaves its text as it is.
const breakable = (name) => name.split(/(?<=[-_./])/).flatMap((part) => [part, element("wbr")]);

function card(hit, place) {
  const photo = element("img", { src: hit.thumbnail, alt: `Photo of ${hit.label}`, loading: place < 10 ? "eager" : "lazy", width: 160, height: 160 });
  const again = element("button", { type: "button", "aria-label": `Search with the photo of ${hit.label}`, class: hit.same_article && hit.probability >= 0.5 ? "same" : "other" },
    element("div", { class: "box" }, photo));
  again.addEventListener("click", () => fromCatalogue(hit.thumbnail, hit.label));
  const meter = element("div", { class: "meter" });
  meter.append(drawing("0 0 100 6", "rect", { x: 0, y: 0, width: Math.max(0, Math.min(100, 100 * hit.score)), height: 6 }));
  const facts = element("p", { class: "facts" });
  if (hit.probability !== null) facts.append(element("span", {}, element("b", {}, percent(hit.probability)), " likely"));
  facts.append(element("span", {}, "score ", element("b", {}, hit.score.toFixed(3))));
  const made = element("li", { class: "hit" },
    element("div", { class: "photo" }, again, element("span", { class: "rank", "aria-hidden": "true" }, String(place + 1))),
    element("p", { class: "name" }, ...breakable(hit.label)), meter, facts);
  if (hit.same_article) made.append(element("p", { class: "badge" }, drawing("0 0 16 16", "path", { d: "m3 8.5 3.4 3.5L13 4.5" }), hit.probability < 0.5 ? "may be the same" : "same article"));
  return made;
}

// ---- the catalogue's own photos --------------------------------------------------------------------------------

async function fromCatalogue(address, label) {
  try {
    const response = await fetch(address);
    if (!response.ok) throw new Plain("This photo is not in the catalogue any more. Search again.");
    await search(await response.blob(), label);
  } catch (error) {
    fail(error);
  }
}

async function begin() {
  const health = await json(await fetch("/health"));
  Object.assign(limits, health);
  $("about").textContent = `Searches ${many(health.photos, "photo", "photos")} of ${many(health.articles, "article", "articles")}.`;
  const numbers = [...new Set([health.k, 10, 20, 50])].filter((k) => k <= health.max_k).sort((a, b) => a - b);
  $("k").replaceChildren(...numbers.map((k) => element("option", {}, String(k))));
  $("k").value = String(health.k);
  const count = Math.min(EXAMPLES, health.articles);
  const places = Array.from({ length: count }, (_, i) => Math.floor((i * health.articles) / count));
  const found = await Promise.all(places.map(async (place) => json(await fetch(`/articles?offset=${place}&limit=1`))));
  const examples = found.flatMap((each) => each.articles);
  $("examples").replaceChildren(...examples.map(example));
  $("try").hidden = examples.length === 0;
}

function example(article) {
  const photo = element("img", { src: article.thumbnail, alt: "", width: 96, height: 96 });
  const button = element("button", { type: "button", "aria-label": `Search with the photo of ${article.label}`, title: article.label }, element("div", { class: "box" }, photo));
  button.addEventListener("click", () => fromCatalogue(article.thumbnail, article.label));
  return element("li", {}, button);
}

// ---- ways in ---------------------------------------------------------------------------------------------------

function take(files, otherwise) {
  const photos = [...files];
  const photo = photos.find((file) => file.type.startsWith("image/")) || photos[0];
  if (photo) return search(photo, photo.name || "pasted photo");
  last = null;
  complain(otherwise);
}

for (const [button, input] of [["choose", "file"], ["take", "camera"]]) {
  $(button).addEventListener("click", () => $(input).click());
  $(input).addEventListener("change", () => {
    if ($(input).files.length) take($(input).files);
    $(input).value = ""; // the same photo may be chosen again
  });
}

let inside = 0; // dragging over a child leaves its parent
document.addEventListener("dragenter", (event) => { event.preventDefault(); inside += 1; document.body.classList.add("over"); });
document.addEventListener("dragleave", () => { inside = Math.max(0, inside - 1); if (!inside) document.body.classList.remove("over"); });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("over");
  take(event.dataTransfer.files, "There is no photo in what was dropped. Drop an image file.");
});
document.addEventListener("paste", (event) => take(event.clipboardData.files, "There is no photo in the clipboard. Copy an image, and paste again."));
$("again").addEventListener("click", () => last && search(last.photo, last.name));
$("k").addEventListener("change", () => last && search(last.photo, last.name));

document.body.classList.toggle("touch", navigator.maxTouchPoints > 0 || matchMedia("(any-pointer: coarse)").matches);
begin().catch(fail);
