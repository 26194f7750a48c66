"""Which backend runs: chosen, forced in three ways, missing, and changed between forward and backward."""

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ops_helpers import PLAIN, in_float64, norm_inputs, run_with_gradients, scan_inputs

from vimzoo.layers import AddNorm, BiMamba, CausalConv, Mlp
from vimzoo.ops import BackendError, add_norm, backends, linear, selective_scan, use_backend
from vimzoo.ops.paths import path
from vimzoo.ops.runtime import abi, native

NOT_BUILT = "the native library was not built (no C compiler at install time?)"


@pytest.fixture
def no_native_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package had been installed where there is no C compiler."""
    monkeypatch.setattr(native, "load", lambda: (None, NOT_BUILT))


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"^backend: expected one of .*cpu.*reference.*, got 'gpu'$"):
        selective_scan(**scan_inputs(), backend="gpu")  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"^name: expected one of .*, got 'fast'$"), use_backend("fast"):
        pass
    monkeypatch.setattr(backends, "_environment", "mkl")
    with pytest.raises(BackendError, match=r"^VIMZOO_BACKEND: expected one of .*, got 'mkl'$"):
        selective_scan(**scan_inputs())  # type: ignore[arg-type]


def test_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument beats the block, the inner block the outer one, and any of them the environment."""
    assert backends.forced_backend() is None
    monkeypatch.setattr(backends, "_environment", "cpu")
    assert backends.forced_backend() == "cpu"
    with use_backend("reference"):
        assert backends.forced_backend() == "reference"
        with contextlib.suppress(KeyError), use_backend("cpu"):
            assert backends.forced_backend() == "cpu"
            assert backends.forced_backend("reference") == "reference"
            raise KeyError
        assert backends.forced_backend() == "reference"
    assert backends.forced_backend() == "cpu"


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("way", ["argument", "block", "environment"])
def test_forced_but_missing(
    name: str, way: str, no_native_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, make, settings = PLAIN[name]
    if way == "environment":
        monkeypatch.setattr(backends, "_environment", "cpu")
    block = use_backend("cpu") if way == "block" else contextlib.nullcontext()
    chosen: dict[str, Any] = {"backend": "cpu"} if way == "argument" else {}
    with (
        block,
        pytest.raises(BackendError, match=r"backend: 'cpu' cannot run \w+: the native library was not built"),
    ):
        function(**make(), **settings, **chosen)


@pytest.mark.parametrize("name", ["cuda", "triton", "mamba_ssm"])
@pytest.mark.parametrize("op", [*PLAIN, "linear"])
def test_gpu_backends_take_no_cpu_tensors(name: str, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forced in any way, none of them is replaced by another backend without a word."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cannot = rf"^backend: '{name}' (cannot run|does not implement) {op.removesuffix('_table')}"
    if op == "linear":
        function, tensors, settings = linear, {"x": torch.ones(2, 3), "weight": torch.ones(4, 3)}, {}
    else:
        function, make, settings = PLAIN[op]
        tensors = make()
        with pytest.raises(BackendError, match=cannot):
            function(**tensors, **settings, backend=name)
    with use_backend(name), pytest.raises(BackendError, match=cannot):
        function(**tensors, **settings)
    monkeypatch.setattr(backends, "_environment", name)
    with pytest.raises(BackendError, match=cannot):
        function(**tensors, **settings)


@pytest.mark.parametrize("name", ["cuda", "triton", "mamba_ssm"])
def test_layers_under_a_backend_that_cannot_run_raise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x = torch.ones(1, 3, 8)
    for layer in (BiMamba(8), CausalConv(8), Mlp(8, 8), lambda x: AddNorm(8)(x, None)):
        with use_backend(name), pytest.raises(BackendError, match=rf"^backend: '{name}' cannot run"):
            layer(x)


def test_stand_ins_are_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for an operator that the forced backend lacks, only if it could run on the device, and in the log."""
    calls = []
    takes = backends.Backend("toy", {"cpu": None}, {}, lambda: (True, ""), stand_ins=("reference",))
    lacks = backends.Backend("bare", {"cpu": None}, {}, lambda: (True, ""))
    monkeypatch.setattr(backends, "_REGISTRY", {b.name: b for b in (*backends.registered(), takes, lacks)})
    monkeypatch.setattr(backends, "_said", set())
    monkeypatch.setitem(backends.find("reference").ops, "add_norm", lambda call: calls.append(call))  # type: ignore
    call: Any = SimpleNamespace(first=torch.ones(1))
    with caplog.at_level(logging.INFO, "vimzoo"), use_backend("toy"):
        for _ in range(2):
            backends.run("add_norm", None, call)
    assert len(calls) == 2
    assert [record.message for record in caplog.records if record.name == "vimzoo"] == [
        "add_norm: the forced backend 'toy' does not implement it; 'reference' runs instead"
    ]
    with pytest.raises(BackendError, match=r"^backend: 'toy' does not implement add_norm$"):
        add_norm(**norm_inputs(), backend="toy")  # type: ignore[arg-type]
    with (
        use_backend("bare"),
        pytest.raises(BackendError, match=r"^backend: 'bare' does not implement add_norm$"),
    ):
        backends.run("add_norm", None, call)


@pytest.mark.parametrize("name", PLAIN)
def test_missing_library_leaves_the_reference(name: str, no_native_library: None) -> None:
    function, make, settings = PLAIN[name]
    tensors = make()
    found = run_with_gradients(function, tensors, **settings)
    expected = run_with_gradients(function, tensors, backend="reference", **settings)
    for values, truths in zip(found, expected, strict=True):
        assert all(torch.equal(value, truths[key]) for key, value in values.items())


def test_stepping_aside_is_said_once(
    no_native_library: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_said", set())
    with caplog.at_level(logging.INFO, "vimzoo"):
        for _ in range(3):
            selective_scan(**scan_inputs())  # type: ignore[arg-type]
    messages = [record.message for record in caplog.records if record.name == "vimzoo"]
    assert len(messages) == 1 and "selective_scan" in messages[0] and NOT_BUILT in messages[0]


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("name", PLAIN)
def test_forced_backend_that_cannot_take_the_call(name: str) -> None:
    function, make, settings = PLAIN[name]
    with pytest.raises(BackendError, match=r"backend: 'cpu' cannot run \w+: torch.float64 on cpu"):
        function(**in_float64(make()), **settings, backend="cpu")


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("first", ["reference", "cpu"])
def test_backward_outside_the_block(name: str, first: str) -> None:
    """``use_backend`` around the forward pass alone: the backward pass may not take another backend's states for its
    own."""
    function, make, settings = PLAIN[name]
    tensors = make()

    def forward(**kwargs: Any) -> Any:
        with use_backend(first):
            return function(**kwargs)

    _, found = run_with_gradients(forward, tensors, **settings)
    with use_backend("reference" if first == "cpu" else "cpu"):
        _, expected = run_with_gradients(function, tensors, **settings)
    for key, value in found.items():
        torch.testing.assert_close(
            value, expected[key], rtol=1e-4, atol=1e-5 * float(expected[key].abs().max())
        )


@pytest.mark.usefixtures("needs_native")
def test_native_is_chosen(instruction_set: str) -> None:
    """Where there is a library, float32 on the CPU runs on it: bit for bit what forcing it gives."""
    for function, make, settings in PLAIN.values():
        tensors = make()
        found, _ = run_with_gradients(function, tensors, **settings)
        expected, _ = run_with_gradients(function, tensors, backend="cpu", **settings)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_unknown_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIMZOO_ISA", "mmx")
    native.load.cache_clear()
    try:
        library, reason = native.load()
    finally:
        native.load.cache_clear()
    assert library is None
    assert reason.startswith("VIMZOO_ISA=mmx is not available here") or reason == NOT_BUILT


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("change", ["another field", "another order", "no list"])
def test_a_library_of_other_sources_is_not_loaded(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions would read the arguments of today from the places of another day."""
    arguments = abi.Arguments("add_norm")
    if change == "another field":
        arguments.names = [*arguments.names, "momentum"]
    elif change == "another order":
        arguments.names = arguments.names[::-1]
    else:
        arguments.struct_name = "sub_norm"
    monkeypatch.setattr(native, "STRUCTS", (*native.STRUCTS[:3], arguments))
    native.load.cache_clear()
    try:
        library, reason = native.load()
    finally:
        native.load.cache_clear()
    assert library is None
    assert reason.startswith("the native library was built from older sources; build it again (")
    assert "add_norm" in reason or "sub_norm" in reason


def test_numbers_that_languages_share() -> None:
    """The codes of paths in Python, C, CUDA and Triton."""
    codes = {
        name: getattr(path, name) for name in ("ROW", "ROW_REVERSED", "COLUMN", "COLUMN_REVERSED", "TABLE")
    }
    assert codes == abi.PATH_CODES
    triton = (Path(path.__file__).parents[3] / "kernels" / "selective_scan" / "triton_scan.py").read_text()
    assert f"COLUMN = tl.constexpr({codes['COLUMN']})" in triton


def test_environment_variables_reach_the_ops() -> None:
    """In a fresh process, as a user sets them."""
    code = """
import torch
from vimzoo.ops import selective_scan
from vimzoo.ops.paths import path
from vimzoo.ops.runtime import abi, native
args = torch.ones(1, 2, 3), torch.ones(1, 2, 3), -torch.ones(2, 1), torch.ones(1, 1, 3), torch.ones(1, 1, 3)
try:
    selective_scan(*args)
except RuntimeError as reason:
    print(type(reason).__name__, reason)
print(native.load()[1])
"""
    environment = {**os.environ, "VIMZOO_BACKEND": "quick", "VIMZOO_ISA": "base"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    refusal, isa = done.stdout.splitlines()
    names = ", ".join(backend.name for backend in backends.registered())
    assert refusal == f"BackendError VIMZOO_BACKEND: expected one of {names}, got 'quick'"
    assert isa == ("base" if native.load()[0] is not None else NOT_BUILT)
