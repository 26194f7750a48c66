"""Picks the weights out of a checkpoint's content: wrappers, moving averages, prefixes before every name."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from vimzoo.errors import UsageError

__all__ = ["GRID", "CheckpointError", "Tensors", "bare", "select_tensors", "shared_prefixes"]

PLAIN_KEYS = (
    "model", "state_dict", "params", "model_state_dict", "model_state", "model_weights", "net", "net_state_dict",
    "network", "network_state_dict", "network_weights", "weights", "module",
)  # fmt: skip
BASICSR_EMA_KEYS = ("params_ema", "params-ema")
"""Taken before the trained weights: BasicSR validates the average where it keeps one, and spandrel loads it."""
EMA_KEYS = (
    "model_ema", "state_dict_ema", "ema_model", *BASICSR_EMA_KEYS, "ema", "ema_state_dict", "model_ema_state_dict",
    "net_ema", "net_E", "ema_weights",
)  # fmt: skip
# All of them are only in checkpoints of our trainer, which evaluates the average and chooses best.pt by it
TRAINER_KEYS = {"model_ema", "best", "history", "sums"}
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
GRID = "pos_embed_grid"
"""Key in a state dict's metadata under which `vimzoo.models.weights.grids.GridModel` records rows and columns."""
ROUTING = "routing"
"""Key there, and argument in a ``config.json``, for how a `MambaIRv2` was told to choose its routes."""
_OF_TRAINING = re.compile(r"optim|sched|scaler|criterion", re.IGNORECASE)


class CheckpointError(UsageError):
    """A weight file that cannot be used; the message names the file and the reason."""


class Tensors(dict[str, Tensor]):
    """Tensors by name, with what their file records about them.

    Attributes:
        grids: Rows and columns of flat position embeddings, by name.
        img_size: Height and width of the model's images, from a ``config.json`` beside the file.
        routing: How a `MambaIRv2` chose its routes; None if the file does not say.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = args[0] if args and isinstance(args[0], Tensors) else None
        self.grids: dict[str, tuple[int, int]] = dict(given.grids) if given else {}
        self.img_size: tuple[int, int] | None = given.img_size if given else None
        self.routing: str | None = given.routing if given else None

    def under(self, prefix: str) -> "Tensors":
        """Those whose names begin with ``prefix``, without it."""
        found = Tensors({n[len(prefix) :]: tensor for n, tensor in self.items() if n.startswith(prefix)})
        found.grids = {n[len(prefix) :]: grid for n, grid in self.grids.items() if n.startswith(prefix)}
        found.img_size, found.routing = self.img_size, self.routing
        return found


def select_tensors(content: object, source: str, *, use_ema: bool | None = None) -> Tensors:
    """Picks one set of weights out of a file's content and removes wrapper prefixes.

    A set under an unknown key is taken if it is the only one. Of several, all are returned, each name with its key and
    a dot before it.

    Args:
        content: What the file holds: a state dict, or a mapping with one or more inside.
        source: The file's name, for messages.
        use_ema: As in `read_checkpoint`.

    Returns:
        Name to tensor; entries that are not tensors are left out.

    Raises:
        CheckpointError: No tensors, or no moving average though `use_ema` asks for it.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source}: no named tensors inside, it holds one {type(content).__name__}")
    if use_ema is None:
        evaluated = any(_tensors_in(content.get(key)) for key in BASICSR_EMA_KEYS)
        use_ema = evaluated or set(content) >= TRAINER_KEYS
    plain = [key for key in PLAIN_KEYS if _tensors_in(content.get(key))]
    ema = [key for key in EMA_KEYS if _tensors_in(content.get(key))]
    loose, others = _tensors_in(content, nested=False), {}
    if not (plain or ema or use_ema):
        others = _other_sets(content)
    if use_ema and not ema:
        raise CheckpointError(f"{source}: no moving average (EMA) inside, it has {_some(content)}")
    if loose and not (use_ema or plain) and all(len(loose) >= len(other) for other in others.values()):
        chosen = loose
    elif plain or ema:
        chosen = _tensors_in(content[(ema if use_ema or not plain else plain)[0]])
    elif len(others) == 1:
        chosen = next(iter(others.values()))
    elif others:
        chosen = Tensors()
        for key, other in others.items():
            chosen.update({f"{key}.{name}": tensor for name, tensor in other.items()})
            chosen.grids.update({f"{key}.{name}": grid for name, grid in other.grids.items()})
    else:
        raise CheckpointError(f"{source}: no tensors inside, it has {_some(content)}")
    chosen.img_size = getattr(content, "img_size", None)
    chosen.routing = chosen.routing or getattr(content, "routing", None)
    return _strip_prefixes(chosen)


def bare(state_dict: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """A state dict out of a wrapper such as ``{"model": ...}``; one without a wrapper is returned as it is.

    Raises:
        CheckpointError: there are no tensors inside.
    """
    if isinstance(state_dict, Tensors) or any(isinstance(value, Tensor) for value in state_dict.values()):
        return state_dict
    return select_tensors(state_dict, "the state dict")


def shared_prefixes(names: Iterable[str]) -> list[str]:
    """The dotted prefixes that all names share, beginning with the empty one: ``["", "model.", "model.net."]``."""
    split = [name.split(".")[:-1] for name in names]
    prefixes = [""]
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        prefixes.append(f"{prefixes[-1]}{parts[0]}.")
    return prefixes


def _other_sets(content: Mapping[Any, object]) -> dict[str, Tensors]:
    """Sets of tensors under unknown keys, without an optimiser's state."""
    found = {
        str(key): _tensors_in(value) for key, value in content.items() if not _OF_TRAINING.search(str(key))
    }
    return {key: tensors for key, tensors in found.items() if tensors}


def _tensors_in(value: object, nested: bool = True) -> Tensors:
    if not isinstance(value, Mapping):
        return Tensors()
    found = Tensors({str(name): item.detach() for name, item in value.items() if isinstance(item, Tensor)})
    if not found and nested:  # a wrapper inside a wrapper, as in old timm averages
        return next((inner for key in PLAIN_KEYS if (inner := _tensors_in(value.get(key), False))), Tensors())
    if isinstance(value, Tensors):
        return Tensors(value)
    for module, metadata in (getattr(value, "_metadata", None) or {}).items():
        recorded = metadata if isinstance(metadata, Mapping) else {}
        if (grid := recorded.get(GRID)) is not None:
            found.grids[f"{module}.pos_embed" if module else "pos_embed"] = (int(grid[0]), int(grid[1]))
        found.routing = recorded.get(ROUTING, found.routing)
    return found


def _strip_prefixes(tensors: Tensors) -> Tensors:
    while len(tensors) > 0:
        named = [name for name in tensors if name != "n_averaged"]  # torch's AveragedModel counts its steps
        prefix = next((p for p in WRAPPER_PREFIXES if named and all(n.startswith(p) for n in named)), None)
        if prefix is None:
            break
        tensors = tensors.under(prefix)
    return tensors


def _some(content: Mapping[Any, object]) -> str:
    keys = [str(key) for key in content]
    return f"only {', '.join(keys[:12])}{', ...' if len(keys) > 12 else ''}" if keys else "nothing"
