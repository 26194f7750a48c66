"""Write the weights that the package ships: ``python -m tools.shipped RUN NAME``.

RUN is the folder of a finished run of the model's recipe (its card names it), NAME a registered name. The best weights
are stored in float16 where the package looks for them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from vimzoo.errors import UsageError
from vimzoo.models.registry import find_facts


def store(run: Path, name: str) -> Path:
    """Store a run's best weights as those of a model; returns the file.

    Raises:
        UsageError: the package has no weights of this model, or the run is of another one.
    """
    facts, tag = find_facts(name)
    if facts.shipped is None:
        raise UsageError(f"{name}: expected a model whose facts have a folder of weights in the package")
    path = facts.shipped / facts.weights(tag)["file"]
    model: Any = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True)
    if (found := model.pretrained_cfg["architecture"]) != facts.name:
        raise UsageError(f"{run}: a run of {found}; expected one of {facts.name}")
    tensors = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    if strange := [key for key, value in tensors.items() if not torch.isfinite(value).all()]:
        raise UsageError(f"{run}: {strange[0]} has values beyond float16")
    save_file(tensors, path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.shipped", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", help="registered name")
    options = parser.parse_args(arguments)
    path = store(options.run, options.name)
    print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
