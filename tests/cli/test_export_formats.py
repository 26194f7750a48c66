"""Every row of the table of formats in docs/export.md, over a small model of every architecture."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from vimzoo import exporting
from vimzoo.errors import UsageError
from vimzoo.exporting import FORMATS, progress
from vimzoo.exporting.check import bound_of
from vimzoo.exporting.formats import web
from vimzoo.models import FAMILIES
from vimzoo.models.inputs import ModelWithInputs, input_shapes
from vimzoo.models.registry import family_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "export.md"
V2: dict[str, Any] = dict(
    embed_dim=16, depths=(2,), num_heads=2, window=8, d_state=4, rank=4, num_tokens=6, kernel=3
)
UNET: dict[str, Any] = dict(embed_dim=30, depths=(1, 1, 1, 1), refinement_depth=1, d_state=2)
SMALL: dict[str, tuple[str, dict[str, Any], tuple[int, int] | None]] = {
    "vim": ("test_vim", {}, (64, 96)),
    "vmamba": ("test_vmamba", {}, (64, 96)),
    "efficient vmamba": ("test_efficient_vmamba", {}, (64, 96)),
    "local vim": ("test_local_vim", {}, (64, 96)),
    "local vmamba": ("test_local_vmamba", {}, (64, 96)),
    "mila": ("test_mila", {}, (64, 96)),
    "plain mamba": ("test_plain_mamba", {}, (64, 96)),
    "mobile mamba": ("test_mobile_mamba", {}, (64, 96)),
    "group mamba": ("test_group_mamba", {}, (64, 96)),
    "spatial mamba": ("test_spatial_mamba", {}, (64, 96)),
    "videomamba": ("test_videomamba", {}, (64, 96)),
    "mambair": ("test_mambair", {}, (16, 24)),
    "mambairv2": ("mambairv2_light_x2", V2, (16, 24)),
    "unet": ("test_unet", {}, (64, 96)),
    "u mamba": ("test_u_mamba", {}, (64, 96)),
    "vm unet": ("test_vm_unet", {}, (64, 96)),
    "swin umamba": ("test_swin_umamba", {}, (64, 96)),
    "mambair unet": ("mambair_realdn_unet", UNET, (16, 24)),
    "spectral fusion": ("test_spectral_fusion_mamba", {}, (8, 12)),
    "multimodal fusion": ("test_multimodal_fusion_mamba", {}, (32, 48)),
    "time machine": ("test_time_machine", {}, None),
}
"""Architecture -> a model's name, its options, and the size of images that the file is written for, if it takes any."""
QUICK = {("pt2", "vim"), ("pt2", "vmamba"), ("pt2", "mambair"), *(("torchscript", name) for name in SMALL)}
CELLS = [
    pytest.param(form, name, marks=() if (form, name) in QUICK else pytest.mark.slow, id=f"{form}-{name}")
    for form in FORMATS
    for name in SMALL
]


def test_every_family_and_every_format_has_its_cell() -> None:
    assert {family_of(name).name for name, _, _ in SMALL.values()} == set(FAMILIES)
    table = DOCS.read_text().split("<!-- generated:formats -->")[1].split("<!-- end -->")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.M) == list(FORMATS)


@pytest.mark.parametrize(("form", "name"), CELLS)
def test_format(form: str, name: str, tmp_path: Path) -> None:
    """The file is written, and answers as the model does for other images, and more of them."""
    for module in FORMATS[form].requires:
        pytest.importorskip(module, reason=f"needs the extra vimzoo[{FORMATS[form].extra}]")
    if form == "web":
        try:
            web.runtime_folder()
        except UsageError as error:
            pytest.skip(str(error))
    registered, options, size = SMALL[name]
    torch.manual_seed(0)
    model = timm.create_model(registered, **options).eval()
    timm.models.save_for_hf(model, str(tmp_path / "saved"), {"model_args": options})
    if form == "web" and isinstance(model, ModelWithInputs):
        with pytest.raises(
            UsageError, match=f"--format web: the model takes {', '.join(model.inputs)}; expected"
        ):
            exporting.export(str(tmp_path / "saved"), form, tmp_path / "model", size=size)
        return
    (written,) = exporting.export(str(tmp_path / "saved"), form, tmp_path / "model", size=size)
    bound = bound_of(model)
    assert written.worst.difference <= bound
    if name == "mambairv2":
        model.routing = "argmax"
    inputs = [torch.rand(3, *shape) for shape in input_shapes(model, size).values()]
    with torch.no_grad():
        want = model(*inputs)
    found = exporting.load(tmp_path / "model", form)(*inputs)
    differences = (found - want).abs().flatten() / want.std()
    assert differences.quantile(0.95 if name == "mambairv2" else 1.0) <= bound


def test_long_steps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.02)
    monkeypatch.setattr(progress, "EVERY", 0.02)
    said: list[str] = []
    with progress.step("writing model.onnx", said.append):
        time.sleep(0.5)
    assert len(said) >= 2 and all(re.fullmatch(r"writing model\.onnx: \d s so far", line) for line in said)
    count = len(said)
    with progress.step("nothing", None):
        time.sleep(0.1)
    assert len(said) == count
    monkeypatch.setattr(progress, "FIRST", 60.0)
    with progress.step("a short step", said.append):
        pass
    assert len(said) == count
