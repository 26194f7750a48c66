"""What the documents' blocks do not show of other libraries; `make test-crossings` runs it where they are installed."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import vimzoo
from vimzoo import exporting
from vimzoo.explain import cam_arguments
from vimzoo.layers import GridMamba, VSSBlock3d

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "cli"))
CLASSIFIERS = ("test_vim", "test_vmamba")


def images(count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:Input Tensor", "ignore:Setting forward")
@pytest.mark.parametrize(
    "kind", ["DeepLift", "DeepLiftShap", "LayerDeepLift", "LayerDeepLiftShap", "NeuronDeepLift"]
)
def test_captum_every_form_of_deep_lift_is_refused(kind: str) -> None:
    """With an error, after which the model is as it was."""
    method = getattr(pytest.importorskip("captum.attr"), kind)
    model = timm.create_model("test_vim").eval()
    layer = [model.blocks[0].mixer.in_proj] if kind.startswith(("Layer", "Neuron")) else []
    options: dict[str, Any] = {"neuron_selector": (0, 0)} if "Neuron" in kind else {"target": 1}
    if "Shap" in kind:
        options["baselines"] = torch.zeros(2, 3, 64, 64)
    with pytest.raises(ValueError, match="captum's DeepLift has no rule for the selective scan"):
        method(model, *layer).attribute(images(), **options)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("block", [VSSBlock3d, GridMamba])
def test_monai_a_bottleneck_learns(block: type[nn.Module]) -> None:
    """A U-net of MONAI with a block for volumes learns to find a box, on windows of its inferer."""
    nets, inferers = pytest.importorskip("monai.networks.nets"), pytest.importorskip("monai.inferers")

    class MambaUNet(nets.UNet):
        def _get_bottom_layer(self, in_channels: int, out_channels: int) -> nn.Module:
            return nn.Sequential(super()._get_bottom_layer(in_channels, out_channels), block(out_channels))

    torch.manual_seed(0)
    net = MambaUNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2))
    assert any(isinstance(module, block) for module in net.modules())
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    x = torch.zeros(2, 1, 16, 16, 24)
    x[:, :, 4:10, 4:12, 6:18] = 1
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(net(x), x[:, 0].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        scores = inferers.SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.25)(x[:1], net.eval())
    assert scores.shape == (1, 2, 16, 16, 24)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_captum_integrated_gradients_are_complete(name: str) -> None:
    method = pytest.importorskip("captum.attr").IntegratedGradients
    model = timm.create_model(name).eval()
    found = method(model).attribute(images(), torch.zeros(1, 3, 64, 64), target=1)
    with torch.no_grad():
        expected = (model(images()) - model(torch.zeros(1, 3, 64, 64)))[0, 1]
    torch.testing.assert_close(found.sum().float(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["GradCAM", "GradCAMPlusPlus", "HiResCAM", "LayerCAM", "XGradCAM", "EigenCAM", "ScoreCAM"]
)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_pytorch_grad_cam_every_method(name: str, kind: str) -> None:
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with getattr(library, kind)(model, *cam_arguments(model)) as cam:
        heat = cam(images(2), [ClassifierOutputTarget(3)] * 2)
    assert heat.shape == (2, 64, 64) and heat.min() >= 0 and 0.9 < heat.max() <= 1


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_pytorch_grad_cam_ablation(name: str) -> None:
    """It needs to be told that channels are on the last axis; the model is as it was afterwards."""
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.ablation_layer import AblationLayerVit
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with torch.no_grad():
        before = model(images(2))
    with library.AblationCAM(model, *cam_arguments(model), ablation_layer=AblationLayerVit()) as cam:
        heat = cam(images(2), [ClassifierOutputTarget(3)] * 2)
    assert heat.shape == (2, 64, 64) and heat.min() >= 0 and 0.9 < heat.max() <= 1
    with torch.no_grad():
        assert torch.equal(model(images(2)), before)


def test_pytorch_grad_cam_is_grad_cam() -> None:
    """Selvaraju et al. 2017, equations 1 and 2, of a VMamba, before the map is scaled to the image's size."""
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    model = timm.create_model("test_vmamba").eval()
    x = torch.randn(1, 3, 128, 128)
    with library.GradCAM(model, *cam_arguments(model)) as cam:
        heat = torch.from_numpy(cam(x, [ClassifierOutputTarget(7)]))[0]
    with torch.no_grad():
        features = model.forward_features(x)[0]
        expected = (features @ model.get_classifier().weight[7]).relu()
    rows, columns = (expected == expected.max()).nonzero()[0].tolist()
    row, column = divmod(int(heat.argmax()), 128)
    assert (row // 32, column // 32) == (rows, columns)


def test_pytorch_grad_cam_draws_the_figure(tmp_path: Path) -> None:
    """Of docs/explaining.md, here with a model that is not trained."""
    pytest.importorskip("pytorch_grad_cam")
    pytest.importorskip("matplotlib")
    script = runpy.run_path(str(ROOT / "docs" / "figures" / "draw_explain.py"), run_name="figures")
    model = timm.create_model("vim_digits").eval()
    script["cam_figure"](model, torch.rand(2, 3, 16, 16), torch.arange(2), tmp_path / "cam.png")
    assert (tmp_path / "cam.png").stat().st_size > 2_000


@pytest.mark.parametrize("name", [*CLASSIFIERS, "test_mambair"])
def test_peft_adapts_x_proj_alone(name: str) -> None:
    """The recipe of Mamba papers: one adapter for each stacked projection; merged, it gives the same model."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    side = 16 if name == "test_mambair" else 64
    x = images()[..., :side, :side]
    with torch.no_grad():
        before = model(x)
    shapes = {n: p.shape for n, p in model.named_parameters() if n.endswith("ssm.x_proj")}
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_parameters=["ssm.x_proj"]))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(2 * k * (rows + dim) for k, rows, dim in shapes.values())
    adapted(x).square().sum().backward()
    assert all(p.grad is not None for p in trained)
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_()
        after = adapted.eval()(x)
        merged = adapted.merge_and_unload()(x)
    assert (after - before).abs().max() > 1e-4 * before.std()
    torch.testing.assert_close(merged, after, rtol=1e-4, atol=3e-5 * float(before.std()))


@pytest.mark.parametrize("kind", ["onnx", "openvino", "onnxruntime"])
@pytest.mark.parametrize("name", [*CLASSIFIERS, "test_mambair", "mambairv2"])
def test_openvino_runs_every_family(name: str, kind: str, tmp_path: Path) -> None:
    """The command itself compares the file in OpenVINO, with open and with fixed sizes, and keeps no other."""
    pytest.importorskip("openvino")
    from test_export_formats import SMALL

    torch.manual_seed(0)
    options: dict[str, Any] = {}
    registered, size = name, "dynamic"
    if name in SMALL:
        registered, options, size = SMALL[name]  # type: ignore[assignment]
    model = timm.create_model(registered, **options).eval()
    timm.models.save_for_hf(model, str(tmp_path / "saved"), {"model_args": options})
    (written,) = exporting.export(str(tmp_path / "saved"), kind, tmp_path, size=size)  # type: ignore[arg-type]
    assert written.worst.difference <= exporting.BOUND
    assert written.companions == ((written.path.with_suffix(".bin"),) if kind == "openvino" else ())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["sequence", "cross", "windows", "separate"])
def test_openvino_our_scan_is_the_operator(
    name: str, dtype: torch.dtype, threads: int, tmp_path: Path
) -> None:
    """In a file, as the exporter writes it."""
    openvino = pytest.importorskip("openvino")
    import vimzoo

    pytest.importorskip("onnx_ir")
    from walks import WALKS, cases

    assert len(WALKS) == 4
    for feeds, want in cases(name, dtype, tmp_path / "scan.onnx"):
        core = openvino.Core()
        core.add_extension(vimzoo.openvino_extension())
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        found = core.compile_model(core.read_model(tmp_path / "scan.onnx"), "CPU", hints)(feeds)[0]
        torch.testing.assert_close(torch.from_numpy(found).to(dtype), want)


@pytest.mark.parametrize("kind", ["int8", "int8-dynamic", "int4"])
def test_openvino_keeps_quantised_products(kind: str, tmp_path: Path) -> None:
    """OpenVINO rounds the inputs of products with 8-bit weights unless the file or the user tells it not to."""
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    network = vimzoo.quantize(nn.Sequential(nn.Linear(48, 64)), kind).requires_grad_(False)
    images = torch.randn(40, 48)
    source = exporting.Source(network, images, False, {})
    exporting.FORMATS["openvino"].save(source, tmp_path / "model.xml")
    core = openvino.Core()
    opened = core.compile_model(tmp_path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = torch.from_numpy(opened(images.numpy())[0])
    torch.testing.assert_close(found, network(images), rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", ["openvino", "onnx"])
def test_openvino_files_in_the_commands(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`predict`, `restore` and the page run them as PyTorch runs the network."""
    pytest.importorskip("openvino")
    from exported import FACTS, network, picture, restored, written
    from PIL import Image

    from vimzoo import demo, predict, restore

    monkeypatch.chdir(tmp_path)
    picture(Path("picture.png"))
    files = {what: str(written(what, form, tmp_path)) for what in ("classifier", "restorer")}
    runtime = ["--runtime", "openvino"]
    model: Any = network("classifier")
    model.pretrained_cfg, model.num_classes = FACTS["classifier"], 5
    (answer,) = predict.predictions(model, [Path("picture.png")])
    want = {entry["class"]: entry["probability"] for entry in answer["classes"]}
    assert predict.main(["picture.png", "--model", files["classifier"], "--json", *runtime]) == 0
    found = json.loads(capsys.readouterr().out)["classes"]
    assert {e["class"]: e["probability"] for e in found} == pytest.approx(want, abs=1e-6)
    scores, heat, _ = demo.classify("picture.png", files["classifier"], runtime="openvino")
    assert scores == pytest.approx(want, abs=1e-6) and heat is None
    pixels = restored(Path("picture.png"), 20, 6).astype(int)
    for dtype, bound in (("fp32", 1), ("bf16", 4)):
        words = ["picture.png", f"{dtype}.png", "--quiet", "--tile", "20", "--overlap", "6", "--dtype", dtype]
        assert restore.main([*words, "--model", files["restorer"], *runtime]) == 0
        assert np.abs(np.asarray(Image.open(f"{dtype}.png")).astype(int) - pixels).max() <= bound
    _, after = demo.restore("picture.png", files["restorer"], runtime="openvino")
    assert np.abs(after.astype(int) - restored(Path("picture.png"), 128).astype(int)).max() <= 1


@pytest.mark.parametrize("name", [*CLASSIFIERS, "test_mambair"])
def test_openvino_in_bfloat16(name: str, tmp_path: Path) -> None:
    """The hint that its users set rounds products, and with `in_bfloat16` what our operators read and write."""
    openvino = pytest.importorskip("openvino")
    from vimzoo.exporting.openvino import load_with_our_scan

    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    timm.models.save_for_hf(model, str(tmp_path / "saved"))
    (written,) = exporting.export(str(tmp_path / "saved"), "openvino", tmp_path)
    x = images(2)
    with torch.no_grad():
        want = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x).float()
    found = load_with_our_scan(written.path, None, "bf16")(x)
    rounded = float((half - want).abs().max() / want.std())
    assert float((found - want).abs().max() / want.std()) < max(4 * rounded, 2e-2)
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert (found - want).abs().max() > 1e-4 * want.std()  # it is in use
