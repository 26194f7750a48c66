"""The authors' tiled inference, recorded from their code: the same tiles, the same result."""

from pathlib import Path

import fill
import numpy as np
import pytest
import torch

from vimzoo.compat import mambair
from vimzoo.restoration import Restorer

REFERENCES = sorted((Path(__file__).parent / "references" / "mambair").glob("tile_official_*.json.gz"))
TOLERANCE = 3e-5  # of the reference's standard deviation


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.name.removesuffix(".json.gz"))
def test_official_tiles(path: Path) -> None:
    reference = fill.load(path)
    model = eval(reference["build"], dict(vars(mambair))).eval()
    model.load_state_dict(fill.state_dict(reference))
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(list(args[0].shape)))
    image = fill.model_input(reference)[0].permute(1, 2, 0).numpy()
    restored = Restorer(model, tile="official")(np.ascontiguousarray(image))
    assert seen == reference["tiles"]
    assert (
        fill.mismatch(torch.from_numpy(restored).permute(2, 0, 1)[None], reference["outputs"][0]) < TOLERANCE
    )


def test_there_are_references() -> None:
    assert len(REFERENCES) == 2
