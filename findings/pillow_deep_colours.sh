#!/usr/bin/env bash
# Pillow and colours of more than 8 bits.
#
# Two lossless files of the same ramps, read back exactly by the libraries that wrote them, should come out of Pillow as
# the same ramps with 8 bits: a TIFF of 16 bits whose colour planes are stored one after the other, and a JPEG 2000 file
# of 12 bits. Seen with Pillow 12.3.0: the planes of the TIFF are off by up to 218 of 255; in the JPEG 2000 file white
# becomes black, because 4095 is rounded up to 256 and cut to 8 bits. No error, no warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 pillow==12.3.0 tifffile==2026.3.3 imagecodecs==2026.3.6
"$folder/env/bin/python" - <<'PY'
import io
import sys

import imagecodecs
import numpy as np
import PIL
import tifffile
from PIL import Image

ramp = np.linspace(0, 1, 64)[None] * np.ones((48, 1))
colour = np.stack([ramp, ramp[:, ::-1], ramp**2], -1)
deep, middle = (np.rint(colour * top).astype(np.uint16) for top in (65535, 4095))

planes = io.BytesIO()
tifffile.imwrite(planes, np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate")
assert np.array_equal(np.moveaxis(tifffile.imread(io.BytesIO(planes.getvalue())), 0, -1), deep)
wavelets = imagecodecs.jpeg2k_encode(middle, level=0, bitspersample=12)
assert np.array_equal(imagecodecs.jpeg2k_decode(wavelets), middle)

print("numpy", np.__version__, "pillow", PIL.__version__, "tifffile", tifffile.__version__)
wrong = 0
for name, content in (("TIFF, 16 bits, planes", planes.getvalue()), ("JPEG 2000, 12 bits", wavelets)):
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)
    error = np.abs(pixels - colour * 255).max()
    print(f"{name}: expected within 1 of the ramps, off by up to {error:.0f} of 255")
    wrong += int(error > 2)
sys.exit(int(wrong != 2))
PY
