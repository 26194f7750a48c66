// Runs the model, away from the page, so that the page stays responsive.

import { colours, prepare } from "./pictures.js";
import { restore } from "./tiles.js";

const PROVIDERS = { WebAssembly: "wasm", WebGPU: "webgpu" };
const GPU_BOUND = 1e-3; // largest difference from PyTorch for which the GPU is used
const TOP = 5;
const MOST = 64e6; // pixels of a result
const LARGEST_SHARE = 1e-30;
let facts, run;

const send = (type, rest, transfer = []) => postMessage({ type, ...rest }, transfer);

async function fetched(url, what) {
  const response = await fetch(new URL(url, import.meta.url));
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  const total = Number(response.headers.get("content-length")), parts = [];
  let length = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    length += value.length;
    if (total) send("progress", { what, share: Math.min(1, length / total) });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** A function from numbers and their shape to the output's numbers. */
async function opened(model, backend) {
  const provider = PROVIDERS[backend];
  const ort = await import(`./ort/${provider}.js`);
  ort.env.wasm.wasmPaths = { wasm: new URL(`./ort/${provider}.wasm`, import.meta.url).href };
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  const session = await ort.InferenceSession.create(model, { executionProviders: [provider], logSeverityLevel: 3 });
  return async (values, shape) => {
    const { output } = await session.run({ images: new ort.Tensor("float32", values, shape) });
    const numbers = await output.getData();
    output.dispose();
    return numbers;
  };
}

/** How a backend does on the images whose output PyTorch has computed. */
async function checked(model, backend) {
  const { shape, step, values, spread, share } = facts.check;
  const images = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => ((i * 7919) % 1009) / 1009);
  const call = await opened(model, backend);
  await call(images, shape);
  const begin = performance.now();
  const output = await call(images, shape);
  const milliseconds = performance.now() - begin;
  const differences = values.map((value, i) => Math.abs(output[i * step] - value) / Math.max(spread, LARGEST_SHARE));
  differences.sort((a, b) => a - b);
  const difference = differences[Math.ceil(share * differences.length) - 1];
  if (Number.isNaN(difference) || differences.some(Number.isNaN)) throw new Error(`${backend}: the model answers NaN`);
  return { backend, call, difference, milliseconds };
}

async function load() {
  facts = JSON.parse(new TextDecoder().decode(await fetched("./model.json", "Loading")));
  const model = await fetched("./model.onnx", "Loading the model");
  const { milliseconds } = use(await checked(model, "WebAssembly"));
  if (!(await navigator.gpu?.requestAdapter())) return;
  try { // meanwhile pictures are taken already: a slow GPU may need long for this
    const gpu = await checked(model, "WebGPU");
    send("tried", { outcome: `WebGPU: ${gpu.milliseconds.toFixed(1)} ms, difference ${gpu.difference}` });
    if (gpu.difference <= GPU_BOUND && gpu.milliseconds < milliseconds) use(gpu);
  } catch (error) {
    send("tried", { outcome: `WebGPU: ${error?.message ?? error}` });
  }
}

/** Runs further pictures in a backend that has been checked, and says so. */
function use(found) {
  const { backend, difference, milliseconds } = found;
  run = found.call;
  send("ready", { model: facts, backend, difference, milliseconds });
  return found;
}

/** The pixels of a picture, upright, as they are stored. */
async function decoded(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function classify(picture) {
  const logits = await run(prepare(picture, facts), [1, ...facts.input_size]);
  const largest = logits.reduce((a, b) => Math.max(a, b)), powers = Array.from(logits, (x) => Math.exp(x - largest));
  const total = powers.reduce((a, b) => a + b);
  const classes = powers.map((power, i) => [facts.names[i], power / total]);
  if (classes.some(([, p]) => Number.isNaN(p))) throw new Error("The model answered NaN; its weights may be damaged");
  send("classes", { classes: classes.sort((a, b) => b[1] - a[1]).slice(0, TOP) });
}

async function enlarge(picture, tile, overlap) {
  const { height, width } = picture, [channels] = facts.input_size, { scale } = facts;
  if (height * width * scale ** 2 > MOST) throw new Error(`The result would have more than ${MOST / 1e6} million pixels`);
  if (!(tile >= 16 && overlap >= 0)) throw new Error("Expected tiles of 16 pixels or more, and an overlap of 0 or more");
  const progress = (share) => send("progress", { what: "Restoring", share });
  const result = await restore(colours(picture, channels), facts, tile, overlap, run, progress);
  const after = await createImageBitmap(result);
  const size = { resizeWidth: width * scale, resizeHeight: height * scale, resizeQuality: "pixelated" };
  const before = await createImageBitmap(picture, size);
  send("restored", { before, after }, [before, after]);
}

const failed = (error) => send("failed", { message: String(error?.message ?? error) });

onmessage = async ({ data: { file, tile, overlap } }) => {
  try {
    const picture = await decoded(file);
    await (facts.scale ? enlarge(picture, tile, overlap) : classify(picture));
  } catch (error) {
    failed(error);
  }
};
load().catch(failed);
