#!/usr/bin/env bash
# Pillow and TIFF with further bands.
#
# A TIFF of five bands, red, green, blue and two more such as near infrared, should be opened with all bands or not at
# all. Pillow opens it as RGB and leaves two bands out, without a warning; with four bands likewise. Seen with Pillow
# 12.3.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pillow==12.3.0 tifffile==2026.3.3
"$folder/env/bin/python" - <<'PY'
import io
import sys
import warnings

import numpy as np
import PIL
import tifffile
from PIL import Image

warnings.simplefilter("error")
print("numpy", np.__version__, "pillow", PIL.__version__, "tifffile", tifffile.__version__)
wrong = 0
for bands in (4, 5):
    file = io.BytesIO()
    pixels = np.arange(48 * 64 * bands, dtype=np.uint32).reshape(48, 64, bands).astype(np.uint8)
    kinds = ["unspecified"] * (bands - 3)
    tifffile.imwrite(file, pixels, photometric="rgb", planarconfig="contig", extrasamples=kinds)
    found = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    print(f"{bands} bands: expected {bands} or an error, found {found.shape[2]}")
    wrong += int(found.shape[2] != bands)
sys.exit(int(wrong != 2))
PY
