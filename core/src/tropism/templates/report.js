"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Curves: the nearest point under the pointer tells its value.
const tip = document.getElementById("tip");
for (const figure of all("figure.chart")) {
  const tips = JSON.parse(figure.dataset.tips);
  for (const svg of all("svg", figure)) {
    const spots = svg.dataset.spots.split(" ").map((pair) => pair.split(",").map(Number));
    const ring = svg.querySelector(".spot");
    const show = (event) => {
      const box = svg.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      const far = ([x, y]) => Math.hypot(3 * (x - (event.clientX - box.left) / scale), y - (event.clientY - box.top) / scale);
      const best = spots.reduce((found, spot, i) => (far(spot) < far(spots[found]) ? i : found), 0);
      ring.setAttribute("cx", spots[best][0]);
      ring.setAttribute("cy", spots[best][1]);
      tip.textContent = tips[best];
      tip.hidden = false;
      const left = box.left + spots[best][0] * scale - tip.offsetWidth / 2;
      tip.style.left = `${Math.max(6, Math.min(left, document.documentElement.clientWidth - tip.offsetWidth - 6))}px`;
      tip.style.top = `${Math.max(6, box.top + spots[best][1] * scale - tip.offsetHeight - 12)}px`;
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
}

// Samples: a click on a picture shows it large, beside the other columns' picture of the same prompt and seed.
const zoom = document.getElementById("zoom");
const pick = document.getElementById("pick");
let chosen; // the row, and the place in its cells
const enlarge = () => {
  const [row, place] = chosen;
  zoom.querySelector("h3").textContent = row.querySelector(".prompt").textContent;
  zoom.querySelector("div").replaceChildren(...all(".cells", row).map((cells) => {
    const shown = all("figure", cells.children[place]).find((figure) => getComputedStyle(figure).visibility === "visible");
    const figure = shown ? shown.cloneNode(true) : document.createElement("figure");
    const scores = JSON.parse(figure.querySelector("[data-scores]")?.dataset.scores ?? "[]");
    const lines = [figure.dataset.label ?? "no sample", ...scores.map((score, i) => `${pick.options[i].text} ${score}`)];
    figure.querySelector("figcaption")?.remove();
    figure.append(Object.assign(document.createElement("figcaption"), { textContent: lines.join("\n") }));
    return figure;
  }));
};
for (const picture of all("article.row figure > :is(img, svg)")) picture.parentElement.parentElement.tabIndex = 0;
document.addEventListener("click", (event) => look(event.target.closest?.("article.row figure > :is(img, svg)")?.closest(".stack")));
document.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.matches?.(".cells > .stack")) look(event.target); });
function look(stack) {
  if (!stack) return;
  chosen = [stack.closest("article"), [...stack.parentElement.children].indexOf(stack)];
  enlarge();
  zoom.showModal();
}
zoom?.addEventListener("click", (event) => { if (event.target === zoom) zoom.close(); });

// Samples: the slider chooses which layer of every stack is visible.
const samples = document.getElementById("samples");
const step = document.getElementById("step");
if (step) {
  const labels = JSON.parse(step.dataset.labels);
  const play = document.getElementById("play");
  let timer = 0;

  // The file holds the base model's tiles once; copies of them let the slider start at the base.
  const bases = all(".column-base.stack > *, .column-base .stack > *");
  all(".column-chosen.stack, .column-chosen .stack").forEach((stack, i) => {
    if (!stack.querySelector(".none") && !bases[i].matches(".none")) stack.append(bases[i].cloneNode(true));
  });

  const go = (at) => {
    step.value = at;
    samples.dataset.at = step.value;
    step.setAttribute("aria-valuetext", labels[step.value]);
    document.getElementById("at").textContent = labels[step.value];
    if (zoom.open) enlarge();
  };
  const stop = () => { clearInterval(timer); timer = 0; play.setAttribute("aria-pressed", "false"); };
  step.addEventListener("input", () => { stop(); go(step.value); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => go((Number(step.value) + 1) % labels.length), 800);
  });
  addEventListener("keydown", (event) => {
    const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!turn || event.altKey || event.ctrlKey || event.metaKey || event.target.closest?.("input, select, audio, video")) return;
    stop();
    go(Number(step.value) + turn);
    event.preventDefault();
  });
  go(step.value); // a reloaded page may have kept the slider's place
}
if (pick) {
  const choose = () => all("[data-scores]", samples).forEach((span) => { span.textContent = JSON.parse(span.dataset.scores)[pick.value]; });
  pick.addEventListener("change", choose);
  choose();
}
