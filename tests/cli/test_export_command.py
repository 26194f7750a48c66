"""``python -m vimzoo.export``: the files run without our code, at sizes never seen, and say what they are."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from exported import spread_error
from loops import faults
from torch import nn

from vimzoo import export, exporting, predict
from vimzoo.errors import UsageError
from vimzoo.exporting import FORMATS
from vimzoo.models import MambaIRv2

onnx = pytest.importorskip("onnx", reason="needs the extra vimzoo[export]")


def run_onnx(path: Path, images: torch.Tensor) -> torch.Tensor:
    return exporting.load(path, "onnx")(images)


def check_onnx(name: str, folder: Path, bound: float, **options: object) -> Path:
    """Export ``name`` for any size and compare at three others; returns the file."""
    torch.manual_seed(0)
    path = folder / f"{name}.onnx"
    written = export.export(name, "onnx", path, random=True, size="dynamic", **options)[0]  # type: ignore[arg-type]
    assert written.path == path and written.worst.difference < bound
    return path


def operators(path: Path) -> set[str]:
    model = onnx.load(path)
    assert {o.domain for o in model.opset_import} - {f.domain for f in model.functions} <= {"", "ai.onnx"}
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return {node.op_type for node in nodes if node.domain in ("", "ai.onnx")}


def check_loops(path: Path) -> None:
    """Loops have nothing that a runtime computes wrongly, in the functions of a file and in their places."""
    import onnx_ir

    from vimzoo.exporting.scan_function.attach import inline

    model = onnx_ir.load(path)
    loops = sum(node.op_type == "Scan" for f in model.functions.values() for node in f)
    assert loops
    for made in model.functions.values():
        assert not list(faults(made, frozenset(made.inputs)))
    inline(model)
    assert sum(node.op_type == "Scan" for node in model.graph) >= loops and not list(faults(model.graph))


def test_onnx_file_of_vim(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vim", dynamic_img_size=True).eval()
    timm.models.save_for_hf(model, str(tmp_path / "saved"))
    path = tmp_path / "test_vim.onnx"
    written = export.export(str(tmp_path / "saved"), "onnx", path, size="dynamic", int8=True)
    assert written[0].path == path and written[0].worst.difference < 1e-5
    assert "Scan" in operators(path) and "Softplus" not in operators(path)
    check_loops(path)
    assert str(Path(export.__file__).parent).encode() not in path.read_bytes()  # nothing of this machine
    facts = {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}
    assert facts["model"] == "test_vim" and facts["num_classes"] == 10 and len(facts["mean"]) == 3
    for shape in ((1, 3, 64, 64), (5, 3, 48, 112), (2, 3, 80, 64)):
        images = torch.randn(shape)
        with torch.no_grad():
            want = model(images)
        assert spread_error(run_onnx(path, images), want) < 1e-5
    small = tmp_path / "test_vim.int8.onnx"
    assert small.stat().st_size < path.stat().st_size
    assert (
        1e-5 < spread_error(run_onnx(small, images), want) < 0.3
    )  # it is another file, and still this model


def test_onnx_file_of_whole_windows_takes_parts_of_them(tmp_path: Path) -> None:
    """MambaIRv2 continues images to whole windows; the one that it was exported with consists of such."""
    torch.manual_seed(0)
    model = MambaIRv2(
        embed_dim=16, depths=(1,), d_state=4, num_heads=2, window=8, rank=4, num_tokens=6,
        upsampler="pixelshuffledirect", routing="argmax",
    ).eval()  # fmt: skip
    program = exporting.to_program(model, torch.rand(2, 3, 32, 48), dynamic_size=True)
    exporting.save_onnx(program, tmp_path / "model.onnx", {})
    check_loops(tmp_path / "model.onnx")
    run = exporting.load(tmp_path / "model.onnx", "onnx")
    for shape in ((1, 3, 32, 48), (3, 3, 33, 47), (1, 3, 5, 70)):
        images = torch.rand(shape)
        with torch.no_grad():
            assert spread_error(run(images), model(images)) < 3e-5


def test_eight_bits_do_not_depend_on_the_rest_of_the_batch(tmp_path: Path) -> None:
    """A token a thousand times as large as the others takes none of their bits, nor does a token of zeros."""
    torch.manual_seed(0)
    model, tokens = nn.Linear(64, 32), torch.randn(4, 64)
    exporting.save_onnx(exporting.to_program(model, tokens), tmp_path / "whole.onnx", {})
    exporting.quantise(tmp_path / "whole.onnx", tmp_path / "small.onnx")
    tokens[1] *= 1000
    tokens[2] = 0
    with torch.no_grad():
        want = model(tokens)
    got = run_onnx(tmp_path / "small.onnx", tokens)
    for index in range(4):
        assert 0 <= spread_error(got[index], want[index]) < 0.05


def test_a_run_or_a_saved_model_in_place_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a run has the model below it; both are written with its weights, classes and options."""
    model = timm.create_model("test_vim", num_classes=3, in_chans=1, depth=2).eval()
    labels = {"num_classes": 3, "label_names": ["one", "two", "three"]}
    timm.models.save_for_hf(model, str(tmp_path / "run/model"), {"pretrained_cfg": labels})
    images = torch.rand(2, 1, 64, 64)
    monkeypatch.chdir(tmp_path)
    for given in ("run", "run/model", "local-dir:run/model"):
        assert export.main([given, "--format", "torchscript"]) == 0
        kept = {exporting.METADATA: ""}
        with torch.no_grad():
            got = torch.jit.load("test_vim.ts", _extra_files=kept)(images)
            torch.testing.assert_close(got, model(images))
        assert json.loads(kept[exporting.METADATA])["label_names"] == ["one", "two", "three"]
        Path("test_vim.ts").unlink()
    with pytest.raises(UsageError, match="--random: run has weights of its own"):
        export.export("run", "torchscript", random=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vmamba", "test_mambair"])
def test_onnx_files_of_the_other_families(name: str, tmp_path: Path) -> None:
    path = check_onnx(name, tmp_path, 1e-5)
    assert "Scan" in operators(path) and "Softplus" not in operators(path)
    check_loops(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vim_tiny_patch16_224", "vmamba_tiny_s1l8", "mambair_light_x2", "mambairv2_light_x2"]
)
def test_onnx_files_of_real_models(name: str, tmp_path: Path) -> None:
    """The command itself refuses a difference above 3e-5."""
    export.export(name, "onnx", tmp_path / "model.onnx", random=True)


@pytest.mark.parametrize("kind", ["pt2", pytest.param("aoti", marks=pytest.mark.slow)])
def test_packages_run_where_only_the_ops_are_imported(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{FORMATS[kind].suffix}"
    export.export("test_vim", kind, path, random=True, size="dynamic")
    load = "torch._inductor.aoti_load_package" if kind == "aoti" else "torch.export.load"
    code = (
        f"import sys, torch, vimzoo.ops; run = {load}(sys.argv[1]); run = getattr(run, 'module', lambda: run)();"
        "print(*run(torch.zeros(3, 3, 48, 96)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "10"]


def test_torchscript_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a folder that exists, where it has the model's name."""
    path = tmp_path / "test_vim.ts"
    assert export.main(["test_vim", "--format", "torchscript", "--random", "--output", str(tmp_path)]) == 0
    assert "largest difference" in capsys.readouterr().out
    kept = {exporting.METADATA: ""}
    assert torch.jit.load(str(path), _extra_files=kept)(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    assert json.loads(kept[exporting.METADATA])["model"] == "test_vim"


def test_torchscript_file_of_a_restoration_model(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    written = export.export("test_mambair", "torchscript", path, random=True)[0]
    assert written.worst.difference < 1e-5
    assert torch.jit.load(str(path))(torch.zeros(2, 3, 17, 40)).shape == (2, 3, 34, 80)


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=pytest.mark.slow), "pt2", "torchscript"])
def test_a_last_map_of_one_position(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As VMamba has on images of 32 x 32 pixels; the file is written for these, saying so, or from 64 on."""
    overlay = {"input_size": (3, 32, 32)}
    model = timm.create_model("test_vmamba", num_classes=10, pretrained_cfg_overlay=overlay).eval()
    timm.models.save_for_hf(model, str(tmp_path / "run"))
    path = tmp_path / "model"
    assert export.main([str(tmp_path / "run"), "--format", kind, "--output", str(path)]) == 0
    if kind != "torchscript":
        assert "written for 32 x 32 pixels" in capsys.readouterr().err
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert spread_error(exporting.load(path, kind)(images), model(images)) < 3e-5
    assert (
        export.main([str(tmp_path / "run"), "--format", kind, "--size", "dynamic", "--output", str(path)])
        == 0
    )
    images = torch.rand(1, 3, 128, 64)
    with torch.no_grad():
        assert spread_error(exporting.load(path, kind)(images), model(images)) < 3e-5


def test_an_exporters_own_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("of another library\nwith many lines") from RuntimeError("the cause")

    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], save=fail))
    monkeypatch.chdir(tmp_path)
    assert export.main(["test_vim", "--random", "--format", "pt2"]) == 1
    assert (
        capsys.readouterr().err
        == "error: --format pt2: test_vim cannot be written: RuntimeError: the cause\n"
    )


@pytest.mark.parametrize("dynamo", [True, False])
def test_torch_onnx_export_points_here(dynamo: bool, tmp_path: Path) -> None:
    model = timm.create_model("test_vim").eval()
    with pytest.raises(Exception, match=r"python -m vimzoo\.export MODEL"):
        torch.onnx.export(
            model, (torch.rand(2, 3, 64, 64),), tmp_path / "x.onnx", dynamo=dynamo, verbose=False
        )


def test_inputs_have_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, path = "test_multimodal_fusion_mamba", tmp_path / "pair.onnx"
    torch.manual_seed(0)
    model: Any = timm.create_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    assert export.main([name, "--checkpoint", str(tmp_path / "weights.pth"), "--output", str(path)]) == 0
    assert "for inputs (1, 1, 32, 32) and (1, 1, 32, 32) on" in capsys.readouterr().out
    file = onnx.load(path)
    shapes = {
        each.name: [axis.dim_value for axis in each.type.tensor_type.shape.dim] for each in file.graph.input
    }
    assert shapes == {"x": [0, 1, 32, 32], "other": [0, 1, 32, 32]}  # 0: open
    facts = {p.key: json.loads(p.value) for p in file.metadata_props}
    assert facts == {"model": name, "inputs": {"x": [1, 32, 32], "other": [1, 32, 32]}}
    pair = torch.rand(2, 3, 1, 32, 32)
    with torch.no_grad():
        assert spread_error(exporting.load(path, "onnx")(*pair), model(*pair)) < 3e-5
    assert predict.main([str(path), "--model", str(path)]) == 2
    assert "takes x, other; expected a file for images alone" in capsys.readouterr().err


def test_the_second_image_is_as_many_times_as_large_whatever_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "pair.pt2"
    (written,) = export.export("test_spectral_fusion_mamba", "pt2", path, random=True)
    assert written.shapes == ((1, 3, 8, 8), (1, 1, 32, 32))
    run = exporting.load(path, "pt2")
    assert run(torch.rand(3, 3, 5, 9), torch.rand(3, 1, 20, 36)).shape == (3, 3, 20, 36)
    with pytest.raises(AssertionError):
        run(torch.rand(3, 3, 5, 9), torch.rand(3, 1, 20, 32))


@pytest.mark.parametrize("name", ["test_efficient_vmamba", "test_local_vim"])
def test_a_model_whose_files_take_one_size_is_written_for_its_own(name: str, tmp_path: Path) -> None:
    """Its scan paths have tables, which are made for one size."""
    (written,) = export.export(name, "pt2", tmp_path / "model.pt2", random=True)
    assert written.shapes == ((1, 3, 64, 64),)
    with pytest.raises(UsageError, match=f"--size dynamic: a file of {name} takes one size"):
        export.export(name, "pt2", tmp_path / "other.pt2", random=True, size="dynamic")


def test_weights_of_a_checkpoint(tmp_path: Path) -> None:
    model = timm.create_model("test_vim")
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    path = tmp_path / "model.ts"
    export.export("test_vim", "torchscript", path, checkpoint=str(tmp_path / "weights.pth"))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exporting.load(path, "torchscript")(images), model.eval()(images))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["vim_tiny_patch16"],
            "MODEL vim_tiny_patch16: no such model or folder; similar names: vim_tiny_patch16_",
        ),
        (["."], "MODEL .: no config.json that names a model; expected the folder of a finished run"),
        (["test_vim", "--size", "0"], "--size 0: expected dynamic"),
        (["test_vim", "--size", "1x2x3"], "--size 1x2x3: expected"),
        (["test_vim", "--int8", "--format", "pt2"], "--int8: needs --format onnx, got pt2"),
        (["test_vim", "--output", "nowhere/model.onnx"], "there is no folder nowhere"),
        (["test_vim", "--checkpoint", "absent.pth"], "absent.pth"),
        (
            ["test_time_machine", "--random", "--size", "32"],
            "--size: test_time_machine has no input with a height and a width; expected no --size",
        ),
        (
            ["test_multimodal_fusion_mamba", "--random", "--size", "dynamic"],
            "--size dynamic: a file of test_multimodal_fusion_mamba takes one size, because",
        ),
        (
            ["vim_digits"],
            "vim_digits: no published weights of this model are known; --checkpoint FILE gives a file",
        ),
    ],
)
def test_bad_requests(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert export.main(arguments) == 2
    assert words in capsys.readouterr().err
    assert not list(Path().glob("unfinished-*"))


def test_a_missing_package_is_named_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], requires=("json", "no_such_package")))
    assert export.main(["vim_tiny_patch16_224", "--format", "pt2"]) == 2
    assert (
        capsys.readouterr().err
        == "error: --format pt2: needs no_such_package; pip install 'vimzoo[export]'\n"
    )


def test_the_former_module_name_still_works() -> None:
    former = importlib.import_module("vimzoo.exporters")
    for name in (
        "METADATA",
        "load",
        "quantise",
        "save_aoti",
        "save_onnx",
        "save_pt2",
        "save_torchscript",
        "to_program",
    ):
        assert getattr(former, name) is getattr(exporting, name)
