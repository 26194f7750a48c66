"""The operators in PyTorch's own terms compute what their definitions say."""

import pytest
import torch

from vimzoo.ops import BIDIRECTIONAL, CROSS, ScanPath, path_arguments, reference
from vimzoo.ops.scan import lowering
from vimzoo.ops.scan.call import ScanCall

PATHS = {
    "sequence": (BIDIRECTIONAL, (1, 7), True),
    "cross": (CROSS, (3, 5), False),
    "windows": ((ScanPath.window(2), ScanPath.window(2).reversed()), (3, 4), False),
    "strides": ((ScanPath.stride(2, 0, 0), ScanPath.stride(2, 0, 1)), (4, 4), False),
}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("name", PATHS)
def test_scan_paths(name: str, merge: bool) -> None:
    paths, (height, width), own_inputs = PATHS[name]
    K, L, D, N, R = len(paths), height * width, 6, 3, 2
    x = torch.randn(2, L, K, D) if own_inputs else torch.randn(2, L, D)
    x_dbl = torch.randn(2, L, K, R + 2 * N)
    parameters = (-torch.rand(K, D, N), torch.randn(K, D, R), torch.randn(K, D), torch.randn(K, D))
    z = torch.randn(2, L, D) if own_inputs and merge else None
    arguments = (x, x_dbl, *parameters, z, *path_arguments(paths, height, width), height, width, merge)
    torch.testing.assert_close(lowering.scan_paths(*arguments)[0], reference.scan_paths(ScanCall(*arguments)))


def test_shared_parameters_and_half_precision() -> None:
    x, x_dbl = torch.randn(1, 6, 4).bfloat16(), torch.randn(1, 6, 1, 5).bfloat16()
    shared = (-torch.rand(1, 4, 2), torch.randn(1, 4, 1), torch.randn(1, 4), None)
    arguments = (x, x_dbl, *shared, None, *path_arguments(CROSS, 2, 3), 2, 3, True)
    got = lowering.scan_paths(*arguments)[0]
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, reference.scan_paths(ScanCall(*arguments)))


def test_stable_sort() -> None:
    x = torch.randint(0, 4, (3, 200))
    want = x.sort(dim=1, stable=True)
    got = lowering.stable_sort(x, dim=1)
    assert torch.equal(got[0], want.values)
    assert torch.equal(got[1], want.indices)
    with pytest.raises(NotImplementedError, match="whole numbers"):
        lowering.stable_sort(x.float())


def test_first_residual_is_no_alias() -> None:
    """An operator's output may not be its input, in whatever terms."""
    x = torch.randn(2, 3, 4)
    stream = lowering.add_norm(x, None, torch.ones(4), None, 1e-5, True, True)[1]
    assert torch.equal(stream, x)
    assert stream.data_ptr() != x.data_ptr()
