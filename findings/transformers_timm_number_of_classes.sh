#!/usr/bin/env bash
# A timm model saved by timm's own save_for_hf, opened by transformers' AutoModelForImageClassification.
#
# transformers documents TimmWrapper for checkpoints in timm's layout, and reads the folder's config.json.
# Seen with timm 1.0.31 and transformers 5.24.0: every classifier saved by timm ends in a TypeError about two values
# for num_classes. timm began to repeat the number of classes among "model_args", and transformers passes these on
# beside a num_classes of its own. Without that entry the folder opens with equal logits, and timm still reads it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  numpy==2.4.6 torch==2.14.1 torchvision==0.29.1 timm==1.0.31 transformers==5.24.0
HF_HUB_OFFLINE=1 FOLDER="$folder/saved" "$folder/env/bin/python" - <<'PY'
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from transformers import AutoModelForImageClassification

folder = Path(os.environ["FOLDER"])
print(", ".join(f"{name} {version(name)}" for name in ("timm", "transformers", "torch")))


def opened(images: torch.Tensor) -> torch.Tensor | str:
    try:
        return AutoModelForImageClassification.from_pretrained(folder).eval()(images).logits
    except TypeError as error:
        return str(error)


unchanged = True
for name in ("test_vit", "test_resnet"):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval()
    images = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        expected = model(images)
        timm.models.save_for_hf(model, str(folder), safe_serialization=True)
        as_saved = opened(images)
        config = json.loads((folder / "config.json").read_text())
        del config["model_args"]["num_classes"]
        (folder / "config.json").write_text(json.dumps(config))
        without = opened(images)
        by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images)
    refused = isinstance(as_saved, str) and "num_classes" in as_saved
    equal = all(
        not isinstance(logits, str) and torch.allclose(logits, expected, atol=1e-6) for logits in (without, by_timm)
    )
    print(f"{name}: as saved: {as_saved if refused else 'opens'}; without the entry: {'equal logits' if equal else without}")
    unchanged = unchanged and refused and equal
print("expected: both open with equal logits")
print("as described above" if unchanged else "the behaviour has changed")
sys.exit(not unchanged)
PY
