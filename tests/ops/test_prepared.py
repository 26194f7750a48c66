"""What is kept of a weight never outlives its values, however they change."""

import copy
import gc
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vimzoo.layers.plain import apply_conv
from vimzoo.ops import inference
from vimzoo.ops.runtime import native
from vimzoo.ops.runtime.prepared import MOST_SETTINGS, Prepared

pytestmark = pytest.mark.skipif(native.load()[0] is None, reason="there is no native library here")


def optimizer_step(layer: nn.Module) -> None:
    layer(torch.randn(1, 8, 6, 6)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()


def weights_swapped_for_averages(layer: nn.Module) -> None:
    layer.weight.data.copy_(torch.randn_like(layer.weight))


def adapter_merged(layer: nn.Module) -> None:
    layer.weight.data += 0.01  # does not count as a change to autograd


def a_single_value(layer: nn.Module) -> None:
    layer.weight.data[3, 2, 1, 0] += 1e-3


def two_filters_exchanged(layer: nn.Module) -> None:
    layer.weight.data = layer.weight.data[torch.tensor([1, 0, *range(2, len(layer.weight))])]


def loaded(layer: nn.Module) -> None:
    layer.load_state_dict({name: torch.randn_like(value) for name, value in layer.state_dict().items()})


def loaded_by_assignment(layer: nn.Module) -> None:
    state = {name: torch.randn_like(value) for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)


def another_parameter(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))


def written_through_numpy(layer: nn.Module) -> None:
    layer.weight.detach().numpy()[0] = 1.0


def changed_in_inference(layer: nn.Module) -> None:
    with torch.inference_mode():
        layer.weight.mul_(2)


def there_and_back(layer: nn.Module) -> None:
    layer.to(torch.float64).to(torch.float32).weight.data.neg_()


CHANGES = [
    optimizer_step, weights_swapped_for_averages, adapter_merged, a_single_value, two_filters_exchanged, loaded,
    loaded_by_assignment, another_parameter, written_through_numpy, changed_in_inference, there_and_back,
]  # fmt: skip


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights that were packed; nothing is kept from earlier tests."""
    made: list[Tensor] = []

    def pack(weight: Tensor, *settings: tuple) -> Tensor:
        made.append(weight)
        return inference._pack(weight, *settings)

    monkeypatch.setattr(inference, "_packed", Prepared(pack))
    return made


def of(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return apply_conv(layer, x)


def plainly(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_the_weight_counts_at_once(change: Callable, packings: list[Tensor]) -> None:
    layer, x = nn.Conv2d(8, 16, 3, 2, 1), torch.randn(1, 6, 6, 8)
    for _ in range(2):
        torch.testing.assert_close(of(layer, x), plainly(layer, x))
    assert len(packings) == 1
    before = plainly(layer, x)
    change(layer)
    assert not torch.equal(plainly(layer, x), before)
    torch.testing.assert_close(of(layer, x), plainly(layer, x))
    assert len(packings) == 2


def test_image_sizes_and_dtypes_each_have_their_form(packings: list[Tensor]) -> None:
    layer = nn.Conv2d(8, 16, 3, 2, 1)
    for size in (*range(4, 5 + MOST_SETTINGS), 4):
        x = torch.randn(1, size, size, 8)
        torch.testing.assert_close(of(layer, x), plainly(layer, x))
    x = torch.randn(1, 6, 6, 8).bfloat16()
    layer.bfloat16()
    torch.testing.assert_close(of(layer, x), plainly(layer, x), rtol=2e-2, atol=2e-2)


def test_copies_and_files_know_nothing_of_it(packings: list[Tensor]) -> None:
    layer, x = nn.Conv2d(8, 16, 3, 2, 1), torch.randn(1, 6, 6, 8)
    size = len(pickle.dumps(layer))
    expected = of(layer, x)
    assert len(pickle.dumps(layer)) == size
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        other.weight.data.zero_()
        assert torch.equal(of(other, x), plainly(other, x))
    assert torch.equal(of(layer, x), expected)


def test_nothing_is_kept_of_a_weight_that_is_gone_or_trained(packings: list[Tensor]) -> None:
    layer, x = nn.Conv2d(8, 16, 3, 2, 1), torch.randn(1, 6, 6, 8)
    of(layer, x)
    assert len(inference._packed._kept) == 1
    apply_conv(layer, x).sum().backward()
    assert layer.weight.grad is not None and not inference._packed._kept
    of(layer, x)
    packings.clear()
    del layer
    gc.collect()
    assert not inference._packed._kept


def test_several_threads(packings: list[Tensor]) -> None:
    layers = [nn.Conv2d(8, 16, 3, 2, 1) for _ in range(3)]
    x = torch.randn(1, 6, 6, 8)
    expected = [plainly(layer, x) for layer in layers]
    wrong: list[int] = []

    def work() -> None:
        for i in range(60):
            if not torch.allclose(of(layers[i % 3], x), expected[i % 3], atol=1e-5):
                wrong.append(i)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong and len(inference._packed._kept) == 3


@pytest.mark.parametrize("size", [0, 1, 3, 511, 512, 513, 2000])
def test_every_byte_counts(size: int) -> None:
    library = native.require()
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    first = library.fingerprint(data.data_ptr(), size)
    assert library.fingerprint(data.clone().data_ptr(), size) == first
    for place in range(size):
        data[place] ^= 1
        assert library.fingerprint(data.data_ptr(), size) != first
        data[place] ^= 1
    assert size == 0 or library.fingerprint(data.data_ptr(), size - 1) != first
