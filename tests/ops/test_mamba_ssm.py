"""The ``mamba_ssm`` backend against packages with each release's signatures, which compute through our reference."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from ops_helpers import (
    HALF_TOLERANCE,
    PLAIN,
    assert_matches_reference,
    conv_inputs,
    path_inputs,
    run_with_gradients,
    scan_inputs,
    with_dtype,
    with_layout,
)

from vimzoo.ops import (
    BIDIRECTIONAL,
    CROSS,
    BackendError,
    ScanPath,
    backends,
    causal_conv1d,
    scan_paths,
    selective_scan,
    use_backend,
)
from vimzoo.ops.backends import mamba_ssm

ACTIVATIONS = "x x_dbl z u delta B C"
SCAN_SIGNATURES = {
    "1.2.0": "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False",
    "fork": "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, "
    "cu_seqlens=None",
}
CONV_SIGNATURES = {
    "1.0.0": "x, weight, bias=None, activation=None",
    "1.1.0": "x, weight, bias=None, seq_idx=None, activation=None",
    "1.2.0": "x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, "
    "final_states_out=None, activation=None",
}
# what the real functions refuse is refused here too
SCAN = """
import torch
from vimzoo.ops import reference
from vimzoo.ops.scan.call import SelectiveCall
selective_scan_cuda = {extension}

def selective_scan_fn({signature}):
    assert all(p is None or p.dtype == torch.float32 for p in (A, D, delta_bias))
    assert all(t is None or t.dtype == u.dtype for t in (delta, B, C, z))
    assert B.dim() in (3, 4) and all(p is None or p.stride(-1) == 1 for p in (D, delta_bias))
    call = SelectiveCall(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y, last_state = reference.selective_scan(call)
    return (y, last_state.detach()) if return_last_state else y
"""
CONV = """
import torch
from vimzoo.ops import reference
from vimzoo.ops.conv.call import ConvCall

def causal_conv1d_fn({signature}):
    assert activation in (None, "silu", "swish") and 2 <= weight.shape[1] <= 4
    assert x.stride(2) == 1 and weight.is_contiguous()
    bias = None if bias is None else bias[None]
    y = reference.causal_conv1d(ConvCall(x.transpose(1, 2), weight[None], bias, [False], activation))
    return y[:, :, 0].transpose(1, 2)
"""
Install = Callable[..., None]


def forget() -> None:
    """As in a process that has imported neither package."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("mamba_ssm", "causal_conv1d")]:
        del sys.modules[name]
    mamba_ssm.load_scan.cache_clear()
    mamba_ssm.load_conv.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(scan, conv)``: packages with the signatures of those releases, which take CPU tensors."""

    def put(scan: str = "1.2.0", conv: str = "1.2.0", extension: str = "object()") -> None:
        (tmp_path / "mamba_ssm" / "ops").mkdir(parents=True)
        (tmp_path / "causal_conv1d").mkdir()
        for folder in ("mamba_ssm", "mamba_ssm/ops"):
            (tmp_path / folder / "__init__.py").touch()
        source = SCAN.format(signature=SCAN_SIGNATURES[scan], extension=extension)
        (tmp_path / "mamba_ssm" / "ops" / "selective_scan_interface.py").write_text(source)
        (tmp_path / "causal_conv1d" / "__init__.py").write_text(CONV.format(signature=CONV_SIGNATURES[conv]))
        for name in ("mamba_ssm-1.2.0", "causal_conv1d-1.2.0"):
            info = tmp_path / f"{name}.dist-info"
            info.mkdir()
            distribution, version = name.split("-")
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
            )
        monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.setattr(mamba_ssm, "DEVICES", ("cpu",))
    forget()
    yield put
    forget()


CASES: dict[str, tuple[Callable[..., Any], Callable[[], Any], dict[str, Any]]] = {
    "scan": (selective_scan, scan_inputs, dict(delta_softplus=True)),
    "scan, groups": (selective_scan, lambda: scan_inputs(channels=6, groups=2, optional=""), {}),
    "two directions": (scan_paths, lambda: path_inputs(length=7, own=True), dict(paths=BIDIRECTIONAL)),
    "cross, shared": (
        scan_paths,
        lambda: path_inputs(length=6, directions=4, shared="x_dbl A dt_weight dt_bias D", optional="D"),
        dict(paths=CROSS, grid=(2, 3)),
    ),
    "table": (
        scan_paths,
        lambda: path_inputs(length=6),
        dict(paths=(ScanPath.from_table([2, -1, 0, 4]), ScanPath.from_table([5, 5, 1, -1]))),
    ),
    "each by itself": (
        scan_paths,
        lambda: path_inputs(length=5, optional=""),
        dict(paths=BIDIRECTIONAL, merge=False),
    ),
    "convolution": (causal_conv1d, conv_inputs, dict(reverse=(False, True), activation="silu")),
    "convolution, bare": (
        causal_conv1d,
        lambda: conv_inputs(taps=3, directions=1, bias=False),
        dict(reverse=(True,)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_matches_the_reference(name: str, install: Install) -> None:
    install()
    function, make, settings = CASES[name]
    assert_matches_reference(function, make(), backend="mamba_ssm", **settings)


@pytest.mark.parametrize("conv", CONV_SIGNATURES)
@pytest.mark.parametrize("scan", SCAN_SIGNATURES)
def test_releases(scan: str, conv: str, install: Install) -> None:
    install(scan, conv)
    for name in ("scan", "convolution"):
        function, make, settings = CASES[name]
        assert_matches_reference(function, make(), backend="mamba_ssm", **settings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["scan", "two directions", "table", "convolution"])
def test_half_precision(name: str, dtype: torch.dtype, install: Install) -> None:
    install()
    function, make, settings = CASES[name]
    tensors = with_dtype(make(), dtype, ACTIVATIONS)
    tolerances = (HALF_TOLERANCE, 2 * HALF_TOLERANCE)  # dt and each direction's output are rounded on the way
    assert_matches_reference(function, tensors, backend="mamba_ssm", tolerances=tolerances, **settings)


@pytest.mark.parametrize("layout", ["transposed", "strided", "offset"])
@pytest.mark.parametrize("name", ["scan", "two directions", "convolution"])
def test_layouts(name: str, layout: str, install: Install) -> None:
    install()
    function, make, settings = CASES[name]
    assert_matches_reference(function, with_layout(make(), layout), backend="mamba_ssm", **settings)


@pytest.mark.parametrize("name", ["scan", "two directions", "each by itself", "convolution"])
def test_no_images(name: str, install: Install) -> None:
    install()
    function, make, settings = CASES[name]
    tensors = {n: t[:0] if t is not None and n in ACTIVATIONS.split() else t for n, t in make().items()}
    found = run_with_gradients(function, tensors, backend="mamba_ssm", **settings)
    expected = run_with_gradients(function, tensors, backend="reference", **settings)
    for values, truths in zip(found, expected, strict=True):
        assert all(torch.equal(value, truths[key]) for key, value in values.items())


@pytest.mark.parametrize("model", ["test_vim", "test_vmamba"])
def test_models(model: str, install: Install) -> None:
    """The ops that those packages do not have run on a backend that has them."""
    install()
    built = timm.create_model(model).eval()
    image = torch.randn(1, *built.pretrained_cfg["input_size"])
    with torch.no_grad():
        with use_backend("reference"):
            expected = built(image)
        with use_backend("mamba_ssm"):
            found = built(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["selective_scan", "scan_paths", "causal_conv1d"])
@pytest.mark.parametrize("block", [False, True])
def test_forced_but_missing(name: str, block: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = (None, "mamba-ssm is not installed")
    monkeypatch.setattr(mamba_ssm, "load_scan", lambda: missing)
    monkeypatch.setattr(mamba_ssm, "load_conv", lambda: missing)
    monkeypatch.setattr(mamba_ssm, "DEVICES", ("cpu",))
    function, make, settings = PLAIN[name]
    chosen = use_backend("mamba_ssm") if block else contextlib.nullcontext()
    with (
        chosen,
        pytest.raises(BackendError, match=rf"'mamba_ssm' cannot run {name}: mamba-ssm is not installed"),
    ):
        function(**make(), **settings, **({} if block else {"backend": "mamba_ssm"}))


def test_cpu_tensors_are_refused() -> None:
    with pytest.raises(BackendError, match=r"'mamba_ssm' cannot run selective_scan: torch.float32 on cpu"):
        selective_scan(**scan_inputs(), backend="mamba_ssm")  # type: ignore[arg-type]


def test_a_build_without_kernels(install: Install) -> None:
    install(extension="None")
    with pytest.raises(BackendError, match="mamba-ssm was built without selective_scan_cuda"):
        selective_scan(**scan_inputs(), backend="mamba_ssm")  # type: ignore[arg-type]


def test_a_build_that_does_not_import(install: Install, tmp_path: Path) -> None:
    install()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("raise OSError('undefined symbol: _ZN3c10')\n")
    with pytest.raises(BackendError, match=r"mamba-ssm cannot be imported: undefined symbol: _ZN3c10"):
        selective_scan(**scan_inputs(), backend="mamba_ssm")  # type: ignore[arg-type]


def test_release_is_named(install: Install) -> None:
    install()
    assert mamba_ssm.load_scan()[1] == "mamba-ssm 1.2.0"
    assert mamba_ssm.load_conv()[1] == "causal-conv1d 1.2.0"


def test_refuses_what_the_packages_cannot_do(install: Install) -> None:
    install()
    tensors = scan_inputs(length=4)
    refusals: list[tuple[str, Callable[[], Any]]] = [
        ("constant B or C", lambda: selective_scan(**scan_inputs(groups=None), backend="mamba_ssm")),  # type: ignore
        ("5 taps", lambda: causal_conv1d(**conv_inputs(taps=5), reverse=(False, True), backend="mamba_ssm")),  # type: ignore
        ("torch.float64", lambda: scan_paths(  # type: ignore[call-arg]
            **{n: None if t is None else t.double() for n, t in path_inputs().items()}, paths=BIDIRECTIONAL,  # type: ignore
            backend="mamba_ssm")),
        ("gradient through the last state", lambda: run_with_gradients(
            selective_scan, tensors, backend="mamba_ssm", return_last_state=True)),
    ]  # fmt: skip
    for reason, call in refusals:
        with pytest.raises(BackendError, match=reason):
            call()


def test_obeys_deterministic_mode() -> None:
    """The tests of the ops run in it."""
    on_a_gpu: Any = SimpleNamespace(is_cuda=True)
    with pytest.raises(backends.Unsupported, match="not deterministic"):
        mamba_ssm.require_no_determinism(on_a_gpu)
    torch.use_deterministic_algorithms(True, warn_only=True)
    mamba_ssm.require_no_determinism(on_a_gpu)


def test_never_imported_unless_asked_for(install: Install, tmp_path: Path) -> None:
    """Not by importing vimzoo, not by running a model, not where it is first on the path."""
    install()
    for package in ("mamba_ssm", "causal_conv1d"):
        (tmp_path / package / "__init__.py").write_text("raise AssertionError('imported')\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import timm, torch, vimzoo\n"
        "timm.create_model('test_vim')(torch.randn(2, 3, 64, 64), ).sum().backward()\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('mamba_ssm', 'causal_conv1d')])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
