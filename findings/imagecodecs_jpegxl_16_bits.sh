#!/usr/bin/env bash
# imagecodecs and JPEG XL of 16 bits.
#
# The same picture, encoded without loss once with 8 and once with 16 bits, should look the same in a viewer. It does
# not: imagecodecs states sRGB's curve for 8 bits and linear light for 16, without a way to choose, so that viewers show
# the second file too bright. The profile that OpenImageIO derives from the file says so by its description. Seen with
# imagecodecs 2026.3.6.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 pillow==12.3.0 imagecodecs==2026.3.6 openimageio==3.2.2.0
cd "$folder"
"$folder/env/bin/python" - <<'PY'
import io
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import OpenImageIO
from PIL import ImageCms

picture = np.random.default_rng(0).random((48, 64, 3))
print("numpy", np.__version__, "imagecodecs", imagecodecs.__version__, "OpenImageIO", OpenImageIO.VERSION_STRING)
stated = []
for bits, kind in ((8, np.uint8), (16, np.uint16)):
    pixels = np.rint(picture * (2**bits - 1)).astype(kind)
    Path("picture.jxl").write_bytes(imagecodecs.jpegxl_encode(pixels, lossless=True))
    file = OpenImageIO.ImageInput.open("picture.jxl")
    profile = bytes(file.spec().getattribute("ICCProfile"))
    file.close()
    stated.append(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip())
    print(f"{bits} bits: expected the same colour space for both, found {stated[-1]}")
sys.exit(int(stated[0] == stated[1]))
PY
