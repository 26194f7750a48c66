"""Empty batches, and images of one pixel, for every family."""

from typing import Any

import pytest
import timm
import torch

from vimzoo.models.inputs import input_shapes
from vimzoo.models.registry import FAMILIES
from vimzoo.models.segmamba import SegMamba
from vimzoo.models.u_mamba import UMamba

SMALL = [name for family in FAMILIES.values() for name in family.facts if name.startswith("test_")]


def shapes_of(output: Any) -> list[tuple[int, ...]]:
    return [tuple(each.shape) for each in (output if isinstance(output, list | tuple) else [output])]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_an_empty_batch_has_an_empty_result(name: str, training: bool) -> None:
    """Of the shape of other results, as torch's layers and timm's models have it."""
    model = timm.create_model(name).train(training)
    inputs = [torch.rand(2, *shape) for shape in input_shapes(model).values()]
    empty = [x[:0] for x in inputs]
    assert shapes_of(model(*empty)) == [(0, *shape[1:]) for shape in shapes_of(model(*inputs))]


def volumes() -> dict[str, Any]:
    sizes: dict[str, Any] = {"in_chans": 1, "num_classes": 2, "dims": (8, 16), "d_state": 4}
    return {
        "u_mamba": UMamba(**sizes, axes=3),
        "segmamba": SegMamba(**sizes, depths=(1, 1), slices=(2, 1), hidden=8),
    }


@pytest.mark.parametrize("name", ["u_mamba", "segmamba"])
def test_an_empty_batch_of_volumes(name: str) -> None:
    model = volumes()[name]
    assert model(torch.zeros(0, 1, 16, 16, 16)).shape == (0, 2, 16, 16, 16)


@pytest.mark.parametrize("name", SMALL)
def test_one_pixel(name: str) -> None:
    """A result, or an error that says what is expected instead."""
    model: Any = timm.create_model(name).eval()
    ones = [torch.rand(1, shape[0], *[1] * (len(shape) - 1)) for shape in input_shapes(model).values()]
    try:
        output = model(*ones)
    except ValueError as error:
        assert "expected" in str(error) and "got" in str(error) and "training" not in str(error)
    else:
        assert torch.isfinite(output).all()


@pytest.mark.parametrize("axes", [2, 3])
def test_u_mamba_needs_two_positions(axes: int) -> None:
    model = UMamba(1, 2, dims=(4, 8), axes=axes, d_state=4).eval()
    for training in (False, True):
        with pytest.raises(
            ValueError, match=rf"x: expected {'images' if axes == 2 else 'volumes'} with a side above 2"
        ):
            model.train(training)(torch.rand(1, 1, *[2] * axes))
    assert model(torch.rand(1, 1, 3, *[1] * (axes - 1))).shape[2] == 3
    uneven = UMamba(1, 2, dims=(4, 8), axes=axes, strides=(1, (1, *[2] * (axes - 1))), d_state=4)
    assert uneven(torch.rand(1, 1, *[2] * axes)).shape[2] == 2
