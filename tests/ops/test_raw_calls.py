"""Bare calls of the registered operators: right like the definition, or refused; never memory that is not theirs."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from ops_helpers import error
from raw_calls import BACKWARD, MAKERS, backward_of, run, spoilt

from vimzoo.ops.runtime import native

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 12


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("op", BACKWARD)
def test_valid_calls_agree_with_the_definition(op: str) -> None:
    """Of every layout, also with repeated items (stride 0) and axes of size 0, forward and backward."""
    rng = random.Random(op)
    for _ in range(3 * ROUNDS):
        call = MAKERS[op](rng, empty=True)
        backward = backward_of(op, call, rng)
        for name, arguments in ((op, call), (f"{op}_backward", backward)):
            found, want = (run(name, arguments, backend) for backend in (None, "reference"))
            if name == op and BACKWARD[op][1] == "states":
                found, want = found[:-1], want[:-1]  # the reference saves none
            for value, truth in zip(found, want, strict=True):
                assert value.shape == truth.shape and error(value, truth) < 1e-4, (name, arguments)


@pytest.mark.parametrize("op", [*MAKERS, *(f"{op}_backward" for op in BACKWARD)])
def test_one_wrong_argument_is_refused(op: str, backend: str) -> None:
    rng = random.Random(op)
    forward = op.removesuffix("_backward")
    for _ in range(ROUNDS):
        call = MAKERS[forward](rng)
        if op != forward:
            call = backward_of(forward, call, rng)
        run(op, call)
        for name, arguments in spoilt(op, call):
            with pytest.raises((ValueError, RuntimeError, TypeError)):
                run(op, arguments, backend)
                shown = {
                    n: tuple(v.shape) if isinstance(v, torch.Tensor) else v for n, v in arguments.items()
                }
                print(f"not refused: {op}, {name} wrong in {shown}, {str(arguments[name])[:60]}")


@pytest.mark.usefixtures("needs_native")
def test_a_table_is_read_again_when_it_changes() -> None:
    """Also where NumPy changes it behind torch's back: then C leaves the step out."""
    call = MAKERS["scan_paths"](random.Random(3)) | {"merge": True}
    tokens, K = call["x"].shape[1], len(call["codes"])
    values = torch.zeros(K, 5, dtype=torch.int32).numpy()
    call["table"] = torch.from_numpy(values)
    run("scan_paths", call)
    values[0, 3] = tokens + 10**6
    left_out = call | {"table": torch.zeros(K, 5, dtype=torch.int32)}
    left_out["table"][0, 3] = -1
    assert torch.equal(run("scan_paths", call)[0], run("scan_paths", left_out)[0])
    call["table"].add_(0)
    with pytest.raises(ValueError, match=f"table: expected tokens 0..{tokens - 1}, or -1 for a pad, got 0.."):
        run("scan_paths", call)


@pytest.mark.usefixtures("needs_native")
def test_memory_given_back_is_refused() -> None:
    x, weight = torch.randn(2, 9, 5), torch.randn(2, 5, 4)
    x.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="got a storage resized to 0"):
        torch.ops.vimzoo.causal_conv1d(x, weight, None, [False, True], None, "cpu")


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("op", ["scan_paths", "selective_scan"])
def test_more_states_than_a_stack_holds(op: str) -> None:
    """200000 states of 64 bytes would not fit a thread's stack; the reference takes them."""
    many = 200_000
    call = MAKERS[op](random.Random(0))
    if op == "scan_paths":
        call = dict(
            x=torch.randn(1, 2, 1), x_dbl=torch.randn(1, 2, 1, 1 + 2 * many), A=-torch.rand(1, 1, many),
            dt_weight=torch.ones(1, 1, 1), dt_bias=torch.ones(1, 1), D=None, z=None, codes=[0], table=None, height=1,
            width=2, merge=True, save_states=True,
        )  # fmt: skip
    else:
        call = dict(
            u=torch.randn(1, 1, 2), delta=torch.rand(1, 1, 2), A=-torch.rand(1, many), B=torch.randn(1, many, 2),
            C=torch.randn(1, many, 2), D=None, z=None, delta_bias=None, delta_softplus=True, save_states=True,
        )  # fmt: skip
    run(f"{op}_backward", backward_of(op, call, random.Random(0)))


def _runtime(library: str) -> str:
    command = ["gcc", f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.usefixtures("needs_native")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs GCC and its AddressSanitizer")
def test_under_address_sanitizer(tmp_path: Path) -> None:
    """The tests above with kernels that stop the process at the first access outside what they were given."""
    level = native.load()[1]
    setup = (ROOT / "setup.py").read_text().split("PORTABLE")[0].partition("FLAGS")
    known: dict[str, dict[str, list[str]]] = {}
    exec(setup[1] + setup[2], known)
    flags = [
        *known["LINUX_X86_64"][level],
        "-std=gnu11",
        "-O1",
        "-g",
        "-fopenmp",
        "-pthread",
        "-shared",
        "-fPIC",
        "-fsanitize=address",
    ]
    sources = sorted(str(path) for path in ROOT.glob("kernels/*/*.c"))
    for name in {"base", level}:  # the first only says what this processor has
        to = tmp_path / f"_cpu_{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        subprocess.run(["gcc", *flags, *sources, "-o", str(to)], check=True)
    runtimes = [_runtime("libasan.so"), _runtime("libstdc++.so")]  # the latter for exceptions thrown in torch
    code = (
        f"import sys, vimzoo.kernels; vimzoo.kernels.__path__.insert(0, {str(tmp_path)!r}); import pytest;"
        "from vimzoo.ops.runtime import native; assert native.load()[0], native.load()[1];"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-m', 'not slow', sys.argv[1]]))"
    )
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "2", "VIMZOO_ISA": level,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, __file__], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
