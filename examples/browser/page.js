// The page: events from its text field, answers below it. The exported folder is served as `edge/`, onnxruntime-web from node_modules.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { open } from "./plan.js";

ort.env.wasm.numThreads = 1; // more of them need headers that a plain file server does not send
const FLIGHT = {
  flight_id: "2013-07-10-VX-413-JFK", year: 2013, month: 7, day: 10, hour: 16, minute: 55, sched_dep_time: 1655, sched_arr_time: 2005,
  dep_delay: 413, carrier: "VX", flight: 413, tailnum: "N639VA", origin: "JFK", dest: "LAX", distance: 2475, departed_at: 1373514480000,
};
const [events, button, answers] = ["events", "score", "answers"].map((id) => document.getElementById(id));

async function read(path) {
  const found = await fetch(`edge/${path}`);
  if (!found.ok) throw new Error(`edge/${path}: ${found.status} ${found.statusText}`);
  return new Uint8Array(await found.arrayBuffer());
}

async function score(text) {
  const lines = text.trimStart().startsWith("{\n") ? [text] : text.split("\n").filter((line) => line.trim());
  return (await plan.score(lines.map((line) => JSON.parse(line)))).map((answer) => JSON.stringify(answer)).join("\n");
}

const show = (work) => work.then((text) => (answers.textContent = text), (error) => (answers.textContent = `error: ${error.message}`));
events.value = JSON.stringify(FLIGHT);
button.addEventListener("click", () => show(score(events.value)));
let plan;
await show(open(ort, read).then((opened) => { plan = opened; button.disabled = false; return "ready"; }));
