"""`path_arguments` in a model's forward: compiled, exported, and in modes that would leave odd tensors behind."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.torch_version import TorchVersion

from vimzoo.ops import CROSS, BackendError, ScanPath, scan_paths
from vimzoo.ops.paths.path import path_arguments, path_table


class Reader(nn.Module):
    """Sums a map along paths, weighted by the step: what it returns depends on every entry of the table."""

    def __init__(self, paths: tuple[ScanPath, ...]) -> None:
        super().__init__()
        self.paths = paths

    def forward(self, x: Tensor) -> Tensor:
        codes, table = path_arguments(self.paths, x.shape[1], x.shape[2], x.device)
        assert table is not None
        steps = torch.ones_like(table[0]).cumsum(0).to(x.dtype)
        return torch.einsum("bktd,t->bkd", x.flatten(1, 2)[:, table.long()], steps) * len(codes)


@pytest.mark.parametrize("dynamic", [False, None, True])
def test_compiles_without_graph_breaks(dynamic: bool | None) -> None:
    """Also where the compiler would have other sizes to be symbols: the grid is then fixed, size by size."""
    torch._dynamo.reset()
    model = Reader((ScanPath.hilbert(), ScanPath.snake().reversed(), ScanPath.spiral()))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for shape in ((2, 3, 4, 5), (1, 7, 4, 5), (3, 5, 6, 2)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), model(x))


def test_other_paths_are_compiled_anew() -> None:
    """The table is a constant to the compiler, but the paths are not."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda model, x: model(x), fullgraph=True, backend="aot_eager")
    spiral, hilbert = Reader((ScanPath.spiral(),)), Reader((ScanPath.hilbert(),))
    x = torch.randn(2, 4, 5, 3)
    assert not torch.allclose(spiral(x), hilbert(x))
    for model in (spiral, hilbert, spiral, Reader((ScanPath.spiral(),))):
        torch.testing.assert_close(compiled(model, x), model(x))


def test_the_op_compiles_with_tables() -> None:
    torch._dynamo.reset()
    paths = (ScanPath.hilbert(), ScanPath.window(2, pads=False))
    shapes = ((2, 12, 5), (2, 12, 2, 5), (2, 5, 2), (2, 5, 1), (2, 5))
    x, x_dbl, A, weight, bias = (torch.randn(shape) for shape in shapes)

    def function(x: Tensor) -> Tensor:
        return scan_paths(x, x_dbl, -A.exp(), weight, bias, paths=paths, grid=(3, 4))

    torch.testing.assert_close(torch.compile(function, fullgraph=True, backend="aot_eager")(x), function(x))


NEEDS_NEWER = pytest.mark.skipif(TorchVersion(torch.__version__) < (2, 9), reason="torch 2.8 refuses it")


@pytest.mark.parametrize("strict", [pytest.param(True, marks=NEEDS_NEWER), False])
def test_exports(strict: bool) -> None:
    model, x = Reader((ScanPath.window(3), ScanPath.window(3).transposed())), torch.randn(1, 4, 5, 2)
    program = torch.export.export(model, (torch.zeros_like(x),), strict=strict)
    torch.testing.assert_close(program.module()(x), model(x))


def test_modes_leave_no_tables_behind() -> None:
    """A size first met on fake tensors, under inference, or with another default device, gets an ordinary table."""
    model = Reader((ScanPath.diagonal(), ScanPath.spiral()))
    with FakeTensorMode():
        model(torch.randn(1, 8, 3, 2))
    assert type(path_table(model.paths, 8, 3)) is Tensor
    with torch.inference_mode():
        model(torch.randn(1, 8, 4, 2))
    x = torch.randn(1, 8, 4, 2, requires_grad=True)
    model(x).sum().backward()  # saves the table
    table = path_table(model.paths, 8, 4)
    assert table is not None and not table.is_inference()
    with torch.device("meta"):
        meta = path_table(model.paths, 8, 5)
    assert meta is not None and meta.device.type == "cpu"


def test_a_table_per_device() -> None:
    paths = (ScanPath.hilbert(),)
    on_cpu, on_meta = (path_arguments(paths, 4, 4, torch.device(device))[1] for device in ("cpu", "meta"))
    assert on_cpu is not None and on_cpu.device.type == "cpu"
    assert on_meta is not None and on_meta.device.type == "meta"
    assert on_cpu is path_table(paths, 4, 4)


def test_closed_forms_cost_nothing() -> None:
    assert path_arguments(CROSS, 3, 4, "meta") == ([0, 2, 1, 3], None)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    table = path_arguments((ScanPath.hilbert(),), 4, 4, "cuda")[1]
    assert table is not None and table.is_cuda
    assert torch.equal(table.cpu(), path_table((ScanPath.hilbert(),), 4, 4))  # type: ignore[arg-type]


@pytest.mark.usefixtures("needs_native")
def test_token_numbers_are_not_cut_to_32_bits() -> None:
    """The kernels' tables are int32: larger numbers used to become pads, whose output is zero."""
    length = 2**31 + 8
    x, rows = torch.randn(1, 1, 1).expand(1, length, 1), torch.randn(1, 1, 1, 3).expand(1, length, 1, 3)
    parameters = (-torch.ones(1, 1, 1), torch.ones(1, 1, 1), torch.ones(1, 1), None, None)
    table = torch.tensor([[length - 2, length - 1]])
    with pytest.raises(BackendError, match=f"a table for {length} tokens"):
        torch.ops.vimzoo.scan_paths(x, rows, *parameters, [4], table, 8, length // 8, False, False, "cpu")
    path = ScanPath.from_table([length - 1])
    stored = path_table((path,), 8, length // 8)
    assert stored is not None and stored.item() == length - 1
