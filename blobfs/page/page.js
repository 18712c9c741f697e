// The live parts of a page; without it everything is there all the same, after a reload.
"use strict";

const LOOK_MS = 2000;
const LIST_LOOKS = 5;
let looks = 0;

async function showText(figure) {
  const link = figure.querySelector("a"), pre = figure.querySelector("pre");
  link.textContent = "Fetching the beginning …";
  const answer = await fetch(figure.dataset.text, { credentials: "same-origin" });
  const isText = (answer.headers.get("content-type") || "").startsWith("text/plain");
  if (answer.ok && !isText) {
    const picture = document.createElement("img");
    picture.src = figure.dataset.text;
    picture.alt = "Preview";
    figure.replaceChildren(picture);
  } else if (answer.ok) {
    pre.textContent = await answer.text();
    pre.hidden = false;
    link.textContent = "The beginning as text";
  } else {
    figure.textContent = isText ? await answer.text() : "There is no preview of this kind of file.";
  }
}

async function look() {
  const started = performance.now();
  if (!document.hidden) {
    const answer = await fetch("/state/", { credentials: "same-origin" });
    const state = document.getElementById("state");
    if (!answer.ok) {
      state.textContent = "This page has ended. Run `blobfs browse` again.";
      state.dataset.state = "ended";
      return;
    }
    const told = await answer.json();
    const isNews = state.textContent !== told.line;
    if (isNews) {
      state.textContent = told.line;
      state.dataset.state = told.state;
    }
    const list = document.querySelector("[data-live]");
    if (list && (isNews || told.busy || ++looks % LIST_LOOKS === 0)) {
      const page = await fetch(list.dataset.live, { credentials: "same-origin", headers: { "X-Live": "1" } });
      if (page.ok) {
        update(list, new DOMParser().parseFromString(await page.text(), "text/html").getElementById("list"));
      }
    }
  }
  // Never more than a tenth of the time: a large folder takes its own to be listed.
  setTimeout(turn, Math.max(LOOK_MS, 9 * (performance.now() - started)));
}

// Only when something is new, and not under a person's fingers.
function update(list, fresh) {
  if (fresh && fresh.innerHTML !== list.innerHTML && !list.contains(document.activeElement)) {
    list.replaceChildren(...fresh.childNodes);
  }
}

function turn() {
  look().catch(() => {
    const state = document.getElementById("state");
    state.textContent = "The mount has ended.";
    state.dataset.state = "ended";
  });
}

for (const figure of document.querySelectorAll("[data-text]")) {
  showText(figure).catch(() => { figure.textContent = "The bytes did not come; try again."; });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    document.querySelector("#search input").focus();
  }
});
if (document.getElementById("state")) {
  setTimeout(turn, LOOK_MS);
}
