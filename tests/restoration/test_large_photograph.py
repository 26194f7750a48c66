"""A photograph of 4000 x 3000 pixels within 4 GB of memory on the CPU, by the highest resident size of the process.

The whole photograph passes a small model. The light model, for which it takes a quarter of an hour and more, gets a
strip of two rows of tiles; what the rest of the photograph and of the result would need besides is added.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from vimzoo.compat import mambair
from vimzoo.restoration.stream import COPIES

WIDTH, HEIGHT, STRIP = 4000, 3000, 400
SCALE = 2
LIMIT = 4 * 10**9
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="reads the highest resident size as Linux tells it"
)
COMMAND = r"""
import json, re, sys
from vimzoo.restore import main
status = main(sys.argv[1:])
kilobytes = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
print(json.dumps([status, kilobytes * 1024]))
"""


def highest_memory(folder: Path, name: str, height: int, photograph: np.ndarray) -> int:
    """Bytes that the command takes at its highest for so many rows, with random weights of the model ``name``."""
    large = Image.fromarray(photograph).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    large.crop((0, 0, WIDTH, height)).save(folder / "large.jpg")
    torch.save({"params": mambair.official_state_dict(timm.create_model(name))}, folder / "model.pth")
    words = ["large.jpg", "out.jpg", "--checkpoint", "model.pth", "--device", "cpu", "--quiet"]
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    status, peak = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    with Image.open(folder / "out.jpg") as image:
        assert image.size == (SCALE * WIDTH, SCALE * height)
    return peak


@pytest.mark.slow
def test_whole_with_a_small_model(photograph: np.ndarray, tmp_path: Path) -> None:
    assert highest_memory(tmp_path, "test_mambair", HEIGHT, photograph) < LIMIT


@pytest.mark.slow
def test_strip_with_the_light_model(photograph: np.ndarray, tmp_path: Path) -> None:
    rest = (HEIGHT - STRIP) * WIDTH * 3 * (1 + COPIES * SCALE**2)
    assert highest_memory(tmp_path, "mambair_light_x2", STRIP, photograph) + rest < LIMIT
