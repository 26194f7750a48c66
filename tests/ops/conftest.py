"""Every op test runs with uninitialised memory poisoned, so that an output that a kernel leaves unwritten shows."""

from collections.abc import Iterator

import pytest
import torch

from vimzoo.ops import backends
from vimzoo.ops.runtime import native

HAS_NATIVE = native.load()[0] is not None


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """``torch.empty`` and its kin return NaN (a documented side of torch's deterministic mode)."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=native.LEVELS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each native library in turn, as ``VIMZOO_ISA`` would pick it; skipped where it is not built or cannot run."""
    monkeypatch.setenv("VIMZOO_ISA", request.param)
    native.load.cache_clear()
    library, reason = native.load()
    try:
        if library is None:
            pytest.skip(reason)
        assert reason == request.param
        yield request.param
    finally:
        native.load.cache_clear()


@pytest.fixture
def needs_native() -> None:
    """Skip where no native library was built."""
    if not HAS_NATIVE:
        pytest.skip(native.load()[1])


@pytest.fixture(params=[backend.name for backend in backends.registered() if backend.serves("cpu")])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of every registered backend that takes CPU tensors; skipped where it does not load."""
    loads, reason = backends.find(request.param).load()
    if not loads:
        pytest.skip(reason)
    return request.param
