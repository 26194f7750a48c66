"""Restoration models from files alone: the network is inferred from the tensors' names and shapes."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from .registry import FAMILIES
from .restoration_base import RestorationModel
from .routes import check_routing
from .weights.contents import Tensors, select_tensors, shared_prefixes
from .weights.loading import CheckpointError, load_tensors, under
from .weights.reader import read_tensors

__all__ = ["find_network", "load_restoration", "restoration_from_tensors", "restoration_options"]

_OTHERS = (
    (r"overlap_attn\.", "HAT"),
    (r"(^|\.)(attn_atd|td_mod)|\.win_mhsa\..*atd", "ATD"),
    (r"residual_group\.blocks\.\d+\.attn\.qkv\.", "SwinIR"),
    (r"(en|de)coder_level\d\.\d+\.attn\.temperature$", "Restormer"),
    (r"^middle_blks\.", "NAFNet"),
    (r"rdb\d\.conv\d\.|RDB\d\.", "ESRGAN (RRDBNet)"),
    (r"^layers_up\.", "VM-UNet, a segmentation network"),
    (r"^vssm_encoder\.", "Swin-UMamba, a segmentation network"),
    (r"^blocks\.\d+\.attn\.qkv\.", "a vision transformer"),
    (r"^(head|fc|classifier)\.weight$", "a classifier"),
    (r"^body\.\d+\.(body\.\d+|conv\d)\.weight$", "EDSR or a similar convolutional network"),
)
"""Networks that are not of this package, by a name that only they have."""


def load_restoration(
    path: str | os.PathLike[str],
    *,
    use_ema: bool | None = None,
    prefix: str = "",
    routing: str | None = None,
    img_range: float = 1.0,
    pos_embed_size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
) -> RestorationModel:
    """A MambaIR, MambaIRv2 or MambaIR U-Net from its file, whatever its size, task and generation.

        model = vimzoo.load_restoration("mambairv2_lightSR_x2.pth")
        restored = model(image)  # (B, 3, H, W) in 0..1 -> (B, 3, 2H, 2W)

    Args:
        path: The authors' file (``{"params": ...}``, ``{"params_ema": ...}``), or one of our own, also safetensors.
        use_ema: Take the moving average of the weights where a file holds both; None: see `read_checkpoint`.
        prefix: Take only the tensors whose names begin with this; one that all names share needs no argument.
        routing: MambaIRv2's ``"gumbel"`` or ``"argmax"``. By default as recorded in the file; the authors' files
            record nothing and are for ``"gumbel"``. The other networks ignore it.
        img_range: Not in the tensors; 1 in every published model.
        pos_embed_size: Rows and columns of MambaIRv2's position embedding, which no published model has. By default
            as recorded in the file; without a record a square is assumed, with a warning.
        device: Where the model is put.

    Returns:
        The model in evaluation mode, with ``scale`` and ``in_chans``.

    Raises:
        CheckpointError: the file cannot be read or holds another model; the message says what it looks like.
        ValueError: there is no such routing.
    """
    source = os.fspath(path)
    tensors = under(read_tensors(path, use_ema=use_ema), prefix, source)
    given: dict[str, Any] = {"routing": routing, "img_range": img_range, "pos_embed_size": pos_embed_size}
    return restoration_from_tensors(tensors, source=source, **given, device=device)


def restoration_from_tensors(
    tensors: Mapping[str, Any],
    *,
    use_ema: bool | None = None,
    source: str = "the state dict",
    routing: str | None = None,
    img_range: float = 1.0,
    pos_embed_size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
) -> RestorationModel:
    """As `load_restoration`, from tensors that another program has read.

        model = vimzoo.restoration_from_tensors(torch.load("mambairv2_lightSR_x2.pth", weights_only=True))

    Args:
        tensors: A state dict under the authors' names or ours, or what a file holds around one (``{"params": ...}``).
            The tensors are copied.
        use_ema, routing, img_range, pos_embed_size, device: As in `load_restoration`.
        source: Where the tensors are from, for messages.

    Returns:
        The model in evaluation mode, with ``scale`` and ``in_chans``.

    Raises:
        CheckpointError: there are no tensors inside, or they are those of another model.
        ValueError: there is no such routing.
    """
    if routing is not None:
        check_routing(routing)
    found = tensors if isinstance(tensors, Tensors) else select_tensors(tensors, source, use_ema=use_ema)
    given: dict[str, Any] = {"routing": routing, "img_range": img_range, "pos_embed_size": pos_embed_size}
    found, kind, options = _described(found, source, given)
    model = kind(**options)
    if (grid := options.get("pos_embed_size")) is not None:
        found.grids["pos_embed"] = grid
    load_tensors(model, found, source, model.filter_fn())
    return model.to(device).eval()


def find_network(content: Mapping[Any, Any]) -> type[RestorationModel] | None:
    """The class of restoration network with these tensors, or None.

    Takes milliseconds and raises nothing, whatever the content.

    Args:
        content: A state dict, possibly of another program; what is not a named tensor is ignored.
    """
    tensors = Tensors(
        {n: x for n, x in content.items() if isinstance(n, str) and isinstance(x, torch.Tensor)}
    )
    for prefix in shared_prefixes(tensors):
        part = tensors.under(prefix) if prefix else tensors
        if any(family.infer and family.detect(part) for family in FAMILIES.values()):
            found = _inferred(part, {})
            if not isinstance(found, Exception):
                return found[0]
    return None


def restoration_options(
    tensors: Mapping[str, torch.Tensor], source: str = "the state dict", **given: Any
) -> tuple[type[RestorationModel], dict[str, Any]]:
    """The class of network that has these tensors, under our names or the authors', and its arguments.

    Args:
        tensors: Tensors by name; a prefix that all names share is ignored.
        source: The file's name, for messages.
        given: Settings that cannot be inferred, as `load_restoration` takes them.

    Raises:
        CheckpointError: no restoration family has such tensors, or one that determines an argument is missing.
    """
    return _described(Tensors(tensors), source, given)[1:]


def _described(
    tensors: Tensors, source: str, given: Mapping[str, Any]
) -> tuple[Tensors, type[RestorationModel], dict[str, Any]]:
    """The tensors without a prefix that all share, and what `restoration_options` returns."""
    tensors = _unwrapped(tensors, source, given)
    found = _inferred(tensors, given)
    if isinstance(found, Exception):
        raise CheckpointError(f"{source}: {found}") from found
    return tensors, *found


def _inferred(
    tensors: Tensors, given: Mapping[str, Any]
) -> tuple[type[RestorationModel], dict[str, Any]] | Exception:
    """The class and its arguments, or the reason why there are none."""
    for family in FAMILIES.values():
        kind: Any = family.detect(tensors)
        if kind is not None and family.task != "restoration":
            kind_of = "a classifier" if family.task == "classification" else f"for {family.task}"
            return ValueError(f"not a restoration model of ours; it looks like {family.name}, {kind_of}")
        if kind is not None and family.infer is None:
            return ValueError(
                f"looks like {kind.__name__}, which a file alone does not describe; create it by name"
            )
        if kind is not None and family.infer is not None:
            try:
                return kind, family.infer(kind, tensors, given)
            except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
                return ValueError(
                    f"looks like {kind.__name__}, but its arguments cannot be inferred: {error}"
                )
    looks = [what for pattern, what in _OTHERS if any(re.search(pattern, name) for name in tensors)]
    if looks:
        return ValueError(f"not a restoration model of ours; it looks like {looks[0]}")
    names = ", ".join(list(tensors)[:3])
    return ValueError(f"not a restoration model of ours; its {len(tensors)} tensors begin with {names}")


def _unwrapped(tensors: Tensors, source: str, given: Mapping[str, Any]) -> Tensors:
    """The tensors without a prefix that all share, if a restoration model of ours is under it."""
    for shared in shared_prefixes(tensors):
        if _is_ours(tensors.under(shared), given):
            return tensors.under(shared)
    heads = (name[: match.end()] for name in tensors for match in re.finditer(r"\.", name))
    part = next((head for head in dict.fromkeys(heads) if _is_ours(tensors.under(head), given)), None)
    if part is not None:
        raise CheckpointError(
            f"{source}: a restoration model is in the file under names that begin with {part!r}; pass prefix={part!r}"
            " to vimzoo.load_restoration to load it"
        )
    return tensors


def _is_ours(tensors: Tensors, given: Mapping[str, Any]) -> bool:
    return not isinstance(_inferred(tensors, given), Exception)
