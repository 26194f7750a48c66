// Pictures as the models take them: with the arithmetic of Pillow, torchvision and timm, to the last bit.

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Name -> the filter, and where it ends
const FILTERS = {
  bilinear: [(x) => Math.max(0, 1 - Math.abs(x)), 1],
  bicubic: [(x) => {
    const distance = Math.abs(x), a = -0.5;
    if (distance < 1) return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
    return distance < 2 ? (((distance - 5) * distance + 8) * distance - 4) * a : 0;
  }, 2],
  lanczos: [(x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0), 3],
};
const BITS = 22; // of the fixed-point weights

/** The nearest whole number, of two the even one, as Python rounds. */
export function round(x) {
  const whole = Math.floor(x), part = x - whole;
  return part > 0.5 || (part === 0.5 && whole % 2 !== 0) ? whole + 1 : whole;
}

/** For each output: the first input and the weights, as whole numbers. */
function weights(size, wanted, [filter, support]) {
  const scale = size / wanted, wide = Math.max(scale, 1), reach = support * wide;
  return Array.from({ length: wanted }, (_, output) => {
    const centre = (output + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(size, Math.trunc(centre + reach + 0.5));
    const raw = Array.from({ length: last - first }, (_, i) => filter((i + first - centre + 0.5) / wide));
    const total = raw.reduce((sum, value) => sum + value, 0);
    return [first, raw.map((value) => Math.trunc((value / total) * 2 ** BITS + (value < 0 ? -0.5 : 0.5)))];
  });
}

/** One axis of an image of `outer` lines of `size` pixels of `inner` numbers. */
function resizeAxis(pixels, outer, size, inner, wanted, filter) {
  const result = new Uint8ClampedArray(outer * wanted * inner), plan = weights(size, wanted, filter);
  for (let line = 0; line < outer; line++) {
    for (let output = 0; output < wanted; output++) {
      const [first, shares] = plan[output];
      for (let channel = 0; channel < inner; channel++) {
        let sum = 2 ** (BITS - 1);
        for (let i = 0; i < shares.length; i++) sum += shares[i] * pixels[(line * size + first + i) * inner + channel];
        result[(line * wanted + output) * inner + channel] = Math.floor(sum / 2 ** BITS);
      }
    }
  }
  return result;
}

/** An image {pixels, height, width, channels} of another size. */
export function resize(image, height, width, name) {
  const { channels } = image;
  let { pixels } = image;
  if (width !== image.width) pixels = resizeAxis(pixels, image.height, image.width, channels, width, FILTERS[name]);
  if (height !== image.height) pixels = resizeAxis(pixels, 1, image.height, width * channels, height, FILTERS[name]);
  return { pixels, height, width, channels };
}

/** RGB, or grey as Pillow computes it, from RGBA; transparency is left out. */
export function colours({ data, height, width }, channels) {
  const pixels = new Uint8ClampedArray(height * width * channels);
  for (let i = 0; i < height * width; i++) {
    const [red, green, blue] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    if (channels === 1) pixels[i] = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16;
    else pixels.set([red, green, blue], 3 * i);
  }
  return { pixels, height, width, channels };
}

/** The height and width to which a picture is resized before it is cropped. */
function scaled({ height, width }, facts) {
  const [, ...target] = facts.input_size;
  const [high, wide] = target.map((side) => Math.floor(side / facts.crop_pct));
  if (facts.crop_mode === "squash") return [high, wide];
  if (high === wide) {
    if (width <= height) return [Math.trunc((wide * height) / width), wide];
    return [high, Math.trunc((high * width) / height)];
  }
  const ratio = Math.min(height / high, width / wide);
  return [round(height / ratio), round(width / ratio)];
}

/** A picture (RGBA) -> the classifier's input: Float32Array (C, H, W). */
export function prepare(picture, facts) {
  const [channels, high, wide] = facts.input_size;
  const image = colours(picture, channels);
  const { pixels, height, width } = resize(image, ...scaled(image, facts), facts.interpolation);
  const top = round((height - high) / 2), left = round((width - wide) / 2), result = new Float32Array(channels * high * wide);
  const inside = (y, x) => y >= 0 && x >= 0 && y < height && x < width;
  for (let channel = 0; channel < channels; channel++) {
    const [mean, std] = [Math.fround(facts.mean[channel]), Math.fround(facts.std[channel])];
    for (let y = 0; y < high; y++) {
      for (let x = 0; x < wide; x++) {
        const value = inside(y + top, x + left) ? pixels[((y + top) * width + x + left) * channels + channel] : 0;
        result[(channel * high + y) * wide + x] = Math.fround(Math.fround(value / 255) - mean) / std;
      }
    }
  }
  return result;
}
