"""TorchScript: a model traced by default is right at other sizes, or refuses them; a scripted one can be saved."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models._features_fx import create_feature_extractor, get_graph_node_names
from torch import Tensor, nn

from vimzoo.models import FAMILIES, MambaIRv2
from vimzoo.ops import ScanPath

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
SHAPES = ((1, 3, 64, 64), (3, 3, 64, 64), (1, 3, 96, 64), (2, 3, 32, 128), (1, 3, 32, 32))
"""The fourth has as many pixels as the image that was traced, in another shape."""
CLASSIFIERS = [
    next(name for name in family.facts if name.startswith("test_"))
    for family in FAMILIES.values()
    if family.task == "classification"
]
ANY_SIZE: dict[str, tuple[str, dict[str, Any]]] = {
    "vim": ("test_vim", {}),
    "vim, rotary embedding": ("test_vim", {"rope": True}),
    "vmamba": ("test_vmamba", {}),
    "vmamba, position embedding": ("test_vmamba", {"pos_embed": True}),
    "vmamba, cascade": ("test_vmamba", {"paths": "cascade"}),
    "mambair": ("test_mambair", {}),
}


def traced(model: nn.Module) -> Any:
    """With the check of ``torch.jit.trace`` that a second trace gives the same graph and the same numbers."""
    return torch.jit.trace(model, torch.rand(1, 3, 64, 64))


def difference(found: Tensor, wanted: Tensor, share: float = 1.0) -> float:
    """The largest difference, of the ``share`` of values that differ least, as a part of their spread."""
    assert found.shape == wanted.shape
    differences = (found - wanted).abs().flatten()
    return (differences.kthvalue(math.ceil(share * len(differences))).values / wanted.std()).item()


@pytest.mark.parametrize("name", ANY_SIZE)
def test_right_at_every_size(name: str) -> None:
    architecture, options = ANY_SIZE[name]
    model = timm.create_model(architecture, **options).eval()
    graph = traced(model)
    for shape in SHAPES:
        images = torch.rand(shape)
        with torch.no_grad():
            assert difference(graph(images), model(images)) < 3e-5, shape


def test_mambair_v2_is_right_at_every_size() -> None:
    """Its scores are products of torch's in a trace and ours outside; the last bit may move a token."""
    model = MambaIRv2(
        embed_dim=16, depths=(2,), d_state=4, num_heads=2, window=8, rank=4, num_tokens=6,
        upsampler="pixelshuffledirect", routing="argmax",
    ).eval()  # fmt: skip
    one_window = torch.jit.trace(model, torch.rand(1, 3, 8, 8))
    for graph in (traced(model), one_window):
        for shape in (*SHAPES, (1, 3, 33, 41), (1, 3, 8, 8)):
            images = torch.rand(shape)
            with torch.no_grad():
                assert difference(graph(images), model(images), share=0.95) < 3e-5, shape


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("test_vim", {"dynamic_img_size": False}, "x: expected a height of 64 and a width of 64"),
        # the table of a path is a constant of the graph
        ("test_vmamba", {"paths": (ScanPath.hilbert(),)}, "x: this model was traced with a map of 16 x 16"),
    ],
)
def test_refused_at_other_sizes(name: str, options: dict[str, Any], words: str) -> None:
    model = timm.create_model(name, **options).eval()
    graph = traced(model)
    with torch.no_grad():
        for shape in SHAPES[:2]:
            images = torch.rand(shape)
            assert difference(graph(images), model(images)) < 3e-5
        for shape in SHAPES[2:]:
            with pytest.raises(torch.jit.Error, match=words):
                graph(torch.rand(shape))


def test_sides_that_are_no_multiples_are_refused() -> None:
    """Of a network with levels of half the size, traced with an image whose sides are multiples of 8."""
    model = timm.create_model(
        "mambair_realdn_unet", embed_dim=32, depths=(1, 1, 1, 1), refinement_depth=1
    ).eval()
    graph = torch.jit.trace(model, torch.rand(1, 3, 16, 16))
    images = torch.rand(2, 3, 24, 16)
    with torch.no_grad():
        assert difference(graph(images), model(images)) < 3e-5
    with pytest.raises(torch.jit.Error, match="multiples of 8"):
        graph(torch.rand(1, 3, 20, 16))


def test_a_traced_model_can_be_trained() -> None:
    """Also at another size: it saves the states of its scans wherever gradients are wanted, and only there."""
    model = timm.create_model("test_vmamba").eval()
    graph, images = traced(model), torch.rand(2, 3, 32, 96)
    wanted = torch.autograd.grad(model(images).square().mean(), list(model.parameters()))
    found = torch.autograd.grad(graph(images).square().mean(), list(graph.parameters()))
    for gradient, truth in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["test_vim", "test_vmamba", "test_mambair"])
def test_a_scripted_model_can_be_saved(name: str, tmp_path: Path) -> None:
    """So nothing that it runs may be Python that TorchScript ignores."""
    model = timm.create_model(name).eval()
    torch.jit.save(torch.jit.script(model), tmp_path / "model.ts")
    images = torch.rand(2, 3, 64, 64)
    assert difference(torch.jit.load(tmp_path / "model.ts")(images), model(images)) < 3e-5


def test_a_file_needs_the_operators_alone(tmp_path: Path) -> None:
    model = timm.create_model("test_vmamba").eval()
    images = torch.rand(1, 3, 96, 32)
    traced(model).save(str(tmp_path / "model.ts"))
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch, vimzoo.ops; run = torch.jit.load('model.ts');"
        "torch.save(run(torch.load('images.pt')), 'answer.pt')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        assert difference(torch.load(tmp_path / "answer.pt"), model(images)) < 3e-5


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("gradients", [False, True])
def test_symbolic_tracing(name: str, gradients: bool) -> None:
    """torch.fx, as timm's feature extraction uses it."""
    model = timm.create_model(name).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.set_grad_enabled(gradients):
        last = get_graph_node_names(model)[1][-1]
        graph = create_feature_extractor(model, {last: "classes"})
        torch.testing.assert_close(graph(x)["classes"], model(x))


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name not in ("test_vim", "test_vmamba")])
def test_a_scripted_model_calls_python_for_its_paths(name: str) -> None:
    """It computes the same, of other sizes too; only models whose paths have closed forms can also be saved."""
    model = timm.create_model(name).eval()
    scripted: Any = torch.jit.script(model)
    for size in ((64, 64), (64, 96)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(scripted(x), model(x), rtol=1e-4, atol=1e-5)
