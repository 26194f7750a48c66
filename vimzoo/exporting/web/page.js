// The page: hands pictures to the worker, and shows what comes back.

const element = (id) => document.getElementById(id);
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
let facts = null;
let begin = 0;

function state(name, status, share = null) {
  document.body.dataset.state = name;
  element("status").textContent = status;
  element("progress").hidden = name !== "loading" && name !== "working";
  if (share === null) element("progress").removeAttribute("value");
  else element("progress").value = share;
}

const answers = {
  progress({ what, share }) {
    state(facts ? "working" : "loading", `${what}: ${Math.round(100 * share)} %`, share);
  },
  ready({ model, backend, difference, milliseconds }) {
    const first = !facts;
    facts = model;
    document.title = element("name").textContent = facts.model;
    element("file").disabled = false;
    element("tiles").hidden = !facts.scale;
    if (first) element("tile").value = facts.sides?.[0] ?? 128;
    element("tile").disabled = Boolean(facts.sides);
    document.body.dataset.backend = backend;
    document.body.dataset.difference = difference;
    const equal = `largest difference from PyTorch ${difference.toExponential(1)} of the output's spread`;
    const now = first ? "ready" : document.body.dataset.state;
    if (now === "ready") state(now, `Ready, in ${backend}: ${milliseconds.toFixed(0)} ms for a picture of ${facts.check.shape[3]} x ` +
      `${facts.check.shape[2]} pixels, ${equal}.`);
  },
  tried({ outcome }) {
    document.body.dataset.tried = element("status").title = outcome;
  },
  classes({ classes }) {
    const items = classes.map(([name, probability]) => {
      const item = document.createElement("li");
      const bar = document.createElement("meter");
      bar.value = item.dataset.probability = probability;
      item.dataset.name = name;
      item.append(bar, ` ${(100 * probability).toFixed(1)} % ${name}`);
      return item;
    });
    element("classes").replaceChildren(...items);
    element("classification").hidden = false;
    done();
  },
  restored({ before, after }) {
    for (const [id, image] of Object.entries({ before, after })) {
      const canvas = element(id);
      [canvas.width, canvas.height] = [image.width, image.height];
      canvas.getContext("bitmaprenderer").transferFromImageBitmap(image);
    }
    compare();
    element("after").toBlob((blob) => {
      URL.revokeObjectURL(element("download").href);
      element("download").href = URL.createObjectURL(blob);
      element("restoration").hidden = false;
      done();
    }, "image/png");
  },
  failed({ message }) {
    element("error").textContent = message;
    element("error").hidden = false;
    state("failed", facts ? "Failed" : "The model could not be loaded");
  },
};

const done = () => state("done", `Done in ${((performance.now() - begin) / 1000).toFixed(2)} s`);
const compare = () => { element("after").style.clipPath = `inset(0 0 0 ${element("slider").value}%)`; };

function start(file) {
  if (!file || !facts || document.body.dataset.state === "working") return;
  element("error").hidden = element("classification").hidden = element("restoration").hidden = true;
  begin = performance.now();
  state("working", "Working");
  URL.revokeObjectURL(element("seen").src);
  element("seen").src = URL.createObjectURL(file);
  worker.postMessage({ file, tile: Number(element("tile").value), overlap: Number(element("overlap").value) });
}

worker.onmessage = ({ data }) => answers[data.type](data);
worker.onerror = (event) => answers.failed({ message: event.message ?? "The worker could not be started" });
element("slider").addEventListener("input", compare);
element("file").addEventListener("change", (event) => start(event.target.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  element("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") start(event.dataTransfer.files[0]);
  });
}
