// The value under the pointer, or under a cursor that the arrow keys move.
import { announce } from "./announce.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
let chosen = null; // the step that the cursor is at

export function startChart() {
  document.addEventListener("pointermove", (event) => {
    const lines = event.target.closest?.("#chart-lines");
    if (lines) choose(nearest(lines, event.clientX));
    else if (chosen !== null && document.activeElement?.id !== "chart-lines") clear();
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.id !== "chart-lines") return;
    const points = pointsOf(event.target);
    const index = move(event.key, points.length, points.findIndex(([step]) => step === chosen));
    if (index === null) return;
    event.preventDefault();
    choose(points[index]);
    announce(`Step ${words(points[index])}`);
  });
  document.addEventListener("focusout", (event) => event.target.id === "chart-lines" && clear());
  document.addEventListener("updated", redraw);
}

const pointsOf = (lines) => JSON.parse(lines.dataset.points);

function move(key, count, index) {
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  if (key === "ArrowLeft") return index < 0 ? count - 1 : Math.max(0, index - 1);
  if (key === "ArrowRight") return Math.min(count - 1, index + 1);
  return null;
}

function nearest(lines, x) {
  const { left, width } = lines.getBoundingClientRect();
  const at = ((x - left) / width) * 100;
  return pointsOf(lines).reduce((best, point) =>
    Math.abs(point[2] - at) < Math.abs(best[2] - at) ? point : best,
  );
}

// A value in words, with the name of the earlier run that it is of.
function words([step, value]) {
  const earlier = JSON.parse(document.getElementById("chart-lines").dataset.earlier ?? "[]");
  const run = earlier.find(([last]) => step <= last);
  return run ? `${step} of ${run[1]}: ${value}` : `${step}: ${value}`;
}

function choose(point) {
  const [step, , left, top] = point;
  chosen = step;
  document.getElementById("chart-point").textContent = `step ${words(point)}`;
  document
    .getElementById("chart-cursor")
    .replaceChildren(
      draw("line", { x1: `${left}%`, x2: `${left}%`, y1: "0", y2: "100%" }),
      draw("circle", { cx: `${left}%`, cy: `${top}%`, r: "5" }),
    );
}

function redraw() {
  const lines = document.getElementById("chart-lines");
  if (chosen === null || !lines) return;
  const point = pointsOf(lines).find(([step]) => step === chosen);
  if (point) choose(point);
  else clear();
}

function clear() {
  chosen = null;
  document.getElementById("chart-cursor")?.replaceChildren();
  const place = document.getElementById("chart-point");
  if (place) place.textContent = "";
}

function draw(name, attributes) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
