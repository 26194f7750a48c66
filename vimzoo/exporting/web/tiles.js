// Restoration in overlapping tiles, as vimzoo.restoration cuts and blends them.

import { round } from "./pictures.js";

/** 0 before and 1 after a smooth step of `width` around `middle`. */
function fadedIn(x, middle, width) {
  const share = Math.min(1, Math.max(0, (x - middle) / Math.max(width, 1e-6) + 0.5));
  return Math.sin(share * (Math.PI / 2)) ** 2;
}

/** The tiles of one axis: {start, length, weights}; the weights sum to 1 at every pixel of the result. */
export function axis(size, tile, overlap, scale, multiple) {
  const count = size <= tile ? 1 : Math.ceil((size - overlap) / (tile - overlap));
  const length = Math.ceil((size + (count - 1) * overlap) / count / multiple) * multiple;
  const step = Math.max(size - length, 0) / Math.max(count - 1, 1);
  const starts = Array.from({ length: count }, (_, i) => round(i * step));
  const shared = starts.slice(1).map((start, i) => starts[i] + length - start);
  const fade = shared.length ? Math.min(overlap, ...shared) : 0;
  return starts.map((start, i) => {
    const weights = Float32Array.from({ length: length * scale }, (_, pixel) => {
      const x = (pixel + 0.5) / scale + start;
      const before = i > 0 ? fadedIn(x, start + shared[i - 1] / 2, fade) : 1;
      return i + 1 < count ? before - fadedIn(x, starts[i + 1] + shared[i] / 2, fade) : before;
    });
    return { start, length, weights };
  });
}

/** The place of a pixel beyond a border, by reflection without repeating the border. */
function reflected(place, size) {
  if (size === 1) return 0;
  const there = place % (2 * (size - 1));
  return there < size ? there : 2 * (size - 1) - there;
}

/** A tile of an image {pixels, height, width, channels} as Float32Array (C, h, w) in 0 to 1. */
function cut({ pixels, height, width, channels }, row, column) {
  const tile = new Float32Array(channels * row.length * column.length);
  for (let y = 0; y < row.length; y++) {
    for (let x = 0; x < column.length; x++) {
      const place = (reflected(row.start + y, height) * width + reflected(column.start + x, width)) * channels;
      for (let channel = 0; channel < channels; channel++) {
        tile[(channel * row.length + y) * column.length + x] = pixels[place + channel] / 255;
      }
    }
  }
  return tile;
}

/** The tiles' rows and columns: of a file's own size if it takes one alone, else of at most `tile` pixels. */
function grid(image, { scale, multiple_of: multiple = 1, sides }, tile, overlap) {
  return [image.height, image.width].map((size, i) => {
    const step = sides?.[i] ?? multiple, side = sides?.[i] ?? Math.max(step, tile - (tile % step));
    return axis(size, side, Math.min(overlap, Math.floor(side / 2)), scale, step);
  });
}

/** Restores an image; `run` maps (tile, [1, C, h, w]) to the result's numbers. Returns RGBA pixels. */
export async function restore(image, facts, tile, overlap, run, progress) {
  const { scale } = facts, { channels } = image, width = image.width * scale, height = image.height * scale;
  const [rows, columns] = grid(image, facts, tile, overlap);
  const sums = new Float32Array(channels * height * width);
  let done = 0;
  for (const row of rows) {
    for (const column of columns) {
      const shape = [1, channels, row.length, column.length];
      add(sums, await run(cut(image, row, column), shape), channels, row, column, scale, height, width);
      progress(++done / (rows.length * columns.length));
    }
  }
  const pixels = new Uint8ClampedArray(4 * height * width);
  for (let i = 0; i < height * width; i++) {
    for (let channel = 0; channel < 3; channel++) {
      pixels[4 * i + channel] = 255 * sums[channel * height * width + i]; // rounds and clamps
    }
    pixels[4 * i + 3] = 255;
  }
  return new ImageData(pixels, width, height);
}

/** Adds a tile's result, weighted, to the sums. */
function add(sums, values, channels, row, column, scale, height, width) {
  const [tall, wide] = [row.length * scale, column.length * scale];
  for (let channel = 0; channel < channels; channel++) {
    for (let y = 0; y < tall && row.start * scale + y < height; y++) {
      const to = (channel * height + row.start * scale + y) * width + column.start * scale;
      for (let x = 0; x < wide && column.start * scale + x < width; x++) {
        sums[to + x] += values[(channel * tall + y) * wide + x] * row.weights[y] * column.weights[x];
      }
    }
  }
}
