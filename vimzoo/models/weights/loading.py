"""Loads checkpoint files into models: all of a file's tensors, or none and an error with the reason.

timm's own loader refuses files that also hold a training script's state, takes the moving average silently,
does not name the file in its errors, and ignores missing tensors if the class count differs. A family uses
this one with two lines, the method timm calls and the builder its entrypoints return:

    class VisionMamba(nn.Module):
        def load_pretrained(self, checkpoint_path, prefix="", *, use_ema=None):
            load_into(self, checkpoint_path, checkpoint_filter_fn, use_ema=use_ema, prefix=prefix)

    def _create_vim(variant, pretrained=False, **kwargs):
        return build_model(VisionMamba, variant, pretrained, checkpoint_filter_fn, **kwargs)
"""

import inspect
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from timm.models import adapt_input_conv, build_model_with_cfg
from torch import Tensor, nn

from .contents import Tensors, select_tensors, shared_prefixes
from .hub import require_weights
from .reader import CheckpointError, read_checkpoint, read_tensors

__all__ = ["CheckpointError", "build_model", "load_checkpoint", "load_into", "read_checkpoint"]

_logger = logging.getLogger(__name__)

FilterFn = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    use_ema: bool | None = None,
    prefix: str = "",
    pos_embed_grid: tuple[int, int] | None = None,
) -> None:
    """Loads a checkpoint file into an existing model, optionally the EMA.

        model = timm.create_model("vim_tiny_patch16_224")
        vimzoo.load_checkpoint(model, "vim_t_midclstok_76p1acc.pth", use_ema=True)

    `timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=...))` reads the same files,
    but timm has no argument for the EMA, so that always takes the weights of `use_ema=None`. `create_model`'s
    `checkpoint_path=` is for timm's own checkpoints: it takes the EMA if there is one and does not translate the
    authors' names.

    Args:
        model: A model of this package, of any image size, class count or number of input channels.
        path: The authors' file, or one of our own.
        use_ema: Take the moving average of the weights, or the trained weights; None: see `read_checkpoint`.
        prefix: Take only the tensors whose names begin with this, such as ``"backbone."`` of a detector's file. A
            prefix that all names share needs no argument.
        pos_embed_grid: Rows and columns of patches that the file's position embedding was learned on. Files that
            `torch.save` wrote of our models' state dicts say it; without either it is assumed, see docs/checkpoints.md.

    Raises:
        CheckpointError: The file does not fit or cannot be read; the model is as it was.
        TypeError: The model has no loader of this package, or `pos_embed_grid` is given and has no effect on it.
    """
    load = getattr(model, "load_pretrained", None)
    if load is None:
        raise TypeError(f"{type(model).__name__} has no load_pretrained; expected a model of vimzoo")
    if pos_embed_grid is None:
        load(path, prefix, use_ema=use_ema)
        return
    if "pos_embed_grid" not in inspect.signature(load).parameters:
        raise TypeError(f"pos_embed_grid: {type(model).__name__} has no position embedding of unknown grid")
    load(path, prefix, use_ema=use_ema, pos_embed_grid=pos_embed_grid)


def load_into(
    model: nn.Module,
    path: str | os.PathLike[str],
    filter_fn: FilterFn | None = None,
    *,
    use_ema: bool | None = None,
    prefix: str = "",
) -> None:
    """Loads a checkpoint file into `model` after checking every name and shape; all or nothing.

    The classifier is left out where the model was given another class count than its `pretrained_cfg` and
    the file's does not fit, and the first convolution is adapted where it was given another channel count.
    Nothing else may be missing, left over, or of another shape.

    Args:
        model: The model, with timm's `pretrained_cfg` if it has a classifier or input to adapt.
        path: A file as `read_checkpoint` takes it.
        filter_fn: Turns the file's names and shapes into the model's, `(state_dict, model) -> state_dict`. It
            may change the dict it is given, not the tensors in it.
        use_ema: As in `read_checkpoint`.
        prefix: Take only names that begin with this, without it (`"backbone."` of a detector's file).

    Raises:
        CheckpointError: The file cannot be read or does not fit; the model is as it was.
    """
    source = os.fspath(path)
    load_tensors(model, under(read_tensors(path, use_ema=use_ema), prefix, source), source, filter_fn, prefix)


def under(tensors: Tensors, prefix: str, source: str) -> Tensors:
    """Those whose names begin with ``prefix``, without it.

    Raises:
        CheckpointError: there are none.
    """
    found = tensors.under(prefix) if prefix else tensors
    if not found and tensors:
        first = ", ".join(list(dict.fromkeys(name.partition(".")[0] for name in tensors))[:8])
        raise CheckpointError(f"{source}: no tensor's name begins with {prefix!r}; they begin with {first}")
    return found


def load_tensors(
    model: nn.Module, tensors: Tensors, source: str, filter_fn: FilterFn | None = None, prefix: str = ""
) -> None:
    """As `load_into`, with tensors instead of a file.

    Args:
        model: As there.
        tensors: By name; what they share and the model does not have before its own names is ignored.
        source: Where they are from, for messages.
        filter_fn: As there.
        prefix: What has been removed from the names, for messages.
    """
    fitted = _adapted(model, unwrapped(model, tensors, filter_fn, source), source)
    _check(model, fitted, source, lambda: _inside(model, tensors, filter_fn, prefix))
    model.load_state_dict(fitted, strict=True)


def build_model(
    model_cls: Callable[..., nn.Module],
    variant: str,
    pretrained: bool,
    filter_fn: FilterFn,
    **kwargs: Any,
) -> Any:
    """timm's `build_model_with_cfg`, with every source of weights checked as `load_into` does.

    Files, URLs and Hub files named in a cfg go through `model.load_pretrained`. timm turns that hook off
    whenever an overlay names a file, so it is turned on here, in the form that serves the Hub as well.
    In-memory `state_dict` overlays, `hf-hub:` and `local-dir:` models never reach the hook; they are checked
    in the filter.

    Args:
        model_cls: The model class; it has a `load_pretrained(path)`.
        variant: The registered name.
        pretrained: Whether to load weights.
        filter_fn: As in `load_into`.
        **kwargs: As `build_model_with_cfg` takes them.

    Returns:
        The model, or timm's feature wrapper around it.

    Raises:
        CheckpointError: The weights cannot be reached or read, or do not fit.
        ValueError: ``features_only`` of a model that has no maps to choose from.
    """
    if pretrained:
        require_weights(variant, kwargs)
    if kwargs.get("features_only") and not hasattr(model_cls, "forward_intermediates"):
        raise ValueError(f"features_only: expected a classifier, {variant} has no such maps")
    overlay = {"custom_load": "hf", **(kwargs.pop("pretrained_cfg_overlay", None) or {})}

    def checked(content: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
        cfg = _cfg(model)
        source = f"weights of {cfg.get('hf_hub_id') or cfg.get('file') or cfg.get('architecture', variant)}"
        if cfg.get("state_dict"):
            source = "the given state_dict"
        tensors = select_tensors(content, source)
        mapped = unwrapped(model, tensors, filter_fn, source)
        _check(model, _adapted(model, mapped, source), source, lambda: _inside(model, tensors, filter_fn, ""))
        return mapped  # timm adapts this itself; the tensors that it drops silently have been checked

    return build_model_with_cfg(
        _on_device(model_cls),
        variant,
        pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=checked,
        **kwargs,
    )


def _on_device(model_cls: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A class that takes timm's ``device`` and ``dtype``: others are made as torch makes any module."""
    known = inspect.signature(model_cls).parameters
    if "device" in known or any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return model_cls

    def made(*args: Any, device: Any = None, dtype: torch.dtype | None = None, **kwargs: Any) -> nn.Module:
        with torch.device(device) if device is not None else nullcontext():
            return model_cls(*args, **kwargs).to(dtype=dtype)

    return made


def map_features(options: dict[str, Any]) -> dict[str, Any]:
    """timm's ``feature_cfg`` for a model of four stages; the entries are taken out of an entrypoint's ``options``."""
    features: dict[str, Any] = dict(
        out_indices=options.pop("out_indices", (0, 1, 2, 3)), feature_cls="getter"
    )
    if options.get("features_only") and "output_fmt" in options:
        features["output_fmt"] = options.pop("output_fmt")
    return features


def _cfg(model: nn.Module) -> Mapping[str, Any]:
    return getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def unwrapped(
    model: nn.Module, tensors: Tensors, filter_fn: FilterFn | None, source: str
) -> dict[str, Tensor]:
    """The tensors under the model's names, without a prefix that they all share and the model does not have."""
    expected, best, most = model.state_dict(), None, -1
    problem: CheckpointError | None = None
    for prefix in shared_prefixes(tensors):
        try:
            mapped = _apply_filter(model, tensors.under(prefix), filter_fn, source)
        except CheckpointError as error:
            problem = problem or error
            continue
        fitting = sum(name in expected for name in mapped)
        if fitting > most:
            best, most = mapped, fitting
    if best is None or (problem is not None and not most):
        assert problem is not None  # the first prefix, "", was tried
        raise problem
    return best


def _inside(model: nn.Module, tensors: Tensors, filter_fn: FilterFn | None, prefix: str) -> str:
    """A hint which prefix to pass if a part of the file holds the model; else empty."""
    expected = model.state_dict()

    def fitting(inner: str) -> int:
        try:
            mapped = _apply_filter(model, tensors.under(inner), filter_fn, "")
        except CheckpointError:
            return 0
        return sum(_shape(mapped, name) == _shape(expected, name) is not None for name in mapped)

    dots = ((name, match.end()) for name in tensors for match in re.finditer(r"\.", name))
    heads = Counter(name[:end] for name, end in dots)
    counts = {head: fitting(head) for head, _ in heads.most_common(24)}
    most = max(counts.values(), default=0)
    if most <= fitting("") or 2 * most <= len(expected):
        return ""
    places = " or ".join(repr(prefix + head) for head, count in counts.items() if count == most)
    return (
        f"{most} are in it under names that begin with {places};"
        " to load them pass that as prefix= to vimzoo.load_checkpoint"
    )


def _apply_filter(
    model: nn.Module, tensors: Tensors, filter_fn: FilterFn | None, source: str
) -> dict[str, Tensor]:
    try:
        mapped = dict(filter_fn(Tensors(tensors), model)) if filter_fn else dict(tensors)
        if strange := [name for name, value in mapped.items() if not isinstance(value, Tensor)]:
            raise TypeError(f"expected tensors, got something else for {_few(strange)}")
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{source}: does not look like a checkpoint of {type(model).__name__};"
            f" converting its names failed with {type(error).__name__}: {error}"
        ) from error
    return mapped


def _adapted(model: nn.Module, tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Adapts the input convolution and the classifier to a model with other channels or classes."""
    cfg, expected, tensors = _cfg(model), model.state_dict(), dict(tensors)
    cfg_channels = (cfg.get("input_size") or (3,))[0]
    for name in _names(cfg.get("first_conv")):
        key = f"{name}.weight"
        found, wanted = _shape(tensors, key) or (), _shape(expected, key) or ()
        if len(found) == len(wanted) == 4 and found[1] == cfg_channels != wanted[1]:
            tensors[key] = adapt_input_conv(wanted[1], tensors[key], base_chans=cfg_channels)
            _logger.info("%s: %s adapted from %d to %d channels", source, name, cfg_channels, wanted[1])

    classes, cfg_classes = getattr(model, "num_classes", None), cfg.get("num_classes")
    if classes is None or cfg_classes is None or classes == cfg_classes:
        return tensors
    for name in _names(cfg.get("classifier")):
        keys = (f"{name}.weight", f"{name}.bias")
        if _shape(tensors, keys[0]) == _shape(expected, keys[0]) is not None:
            continue  # a file fine-tuned to this class count: its classifier is wanted
        wanted_keys = [key for key in keys if key in expected]
        if 0 < sum(key in tensors for key in wanted_keys) < len(wanted_keys):
            continue  # half a classifier is a damaged file, to be reported
        for key in keys:
            tensors.pop(key, None)
        tensors.update({key: expected[key] for key in keys if key in expected})
        _logger.info("%s: classifier %s not loaded, the model has %d classes", source, name, classes)
    return tensors


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _check(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, inside: Callable[[], str] = str
) -> None:
    """Raises CheckpointError unless loading `tensors` is certain to succeed; ``inside`` hints at a part that fits."""
    expected = model.state_dict()
    if any(value.is_meta for value in expected.values()):
        raise CheckpointError(
            f"{source}: the model is on the meta device; give it memory with to_empty() first"
        )
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    common = [name for name in expected if name in tensors]
    wrong = [name for name in common if _shape(tensors, name) != _shape(expected, name)]
    unfit = [name for name in common if not _convertible(tensors[name], expected[name])]
    large = [name for name in common if name not in unfit and not _in_range(tensors[name], expected[name])]
    if not (missing or extra or wrong or unfit or large):
        return
    shapes = [f"{name}: got {_shape(tensors, name)}, expected {_shape(expected, name)}" for name in wrong]
    dtypes = [f"{name}: got {tensors[name].dtype}, expected {expected[name].dtype}" for name in unfit]
    lists = (
        (missing, "missing"),
        (extra, "unexpected"),
        (shapes, "misshapen"),
        (dtypes, "of another kind"),
        (large, "with larger numbers than the model's dtype holds"),
    )
    problems = [f"{len(items)} {what} ({_few(items)})" for items, what in lists if items]
    if part := inside():
        raise CheckpointError(
            f"{source}: does not fit {type(model).__name__} as it is, nothing was loaded; of {len(expected)} tensors"
            f" {part}"
        )
    hints = "".join(f"; {hint}" for hint in _hints(model, tensors, expected, wrong))
    raise CheckpointError(
        f"{source}: does not fit {type(model).__name__}, nothing was loaded; of {len(expected)} tensors:"
        f" {', '.join(problems)}{hints}"
    )


def _convertible(found: Tensor, wanted: Tensor) -> bool:
    """Whether copying keeps the values; integers and quantised values in place of floats would not."""
    if found.is_meta or found.is_quantized or found.layout != torch.strided:
        return False
    if wanted.is_floating_point():
        return found.is_floating_point()
    whole = not (found.is_floating_point() or found.is_complex())
    return whole or wanted.is_complex()


def _in_range(found: Tensor, wanted: Tensor) -> bool:
    """Whether every finite value stays finite in the wanted dtype."""
    if not (found.is_floating_point() and wanted.is_floating_point()):
        return True
    largest = torch.finfo(wanted.dtype).max
    if torch.finfo(found.dtype).max <= largest:
        return True
    return bool((found.isinf() | found.isnan() | (found.abs() <= largest)).all())


def _few(items: list[str], count: int = 4) -> str:
    return "; ".join(items[:count]) + (f"; and {len(items) - count} more" if len(items) > count else "")


def _hints(
    model: nn.Module, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], wrong: list[str]
) -> list[str]:
    """Hints at which other model a file that does not fit seems to hold."""
    if not any(name in expected for name in tensors):
        return ["no name in it is one of this model's: another architecture"]
    hints = []
    for key in (f"{name}.weight" for name in _names(_cfg(model).get("classifier"))):
        if key in wrong and expected[key].ndim == 2 and tensors[key].ndim == 2:
            found, wanted = len(tensors[key]), len(expected[key])
            if found != wanted:
                hints.append(f"it has {found} classes and the model {wanted}; pass num_classes={found}")
    # The pair of sizes that disagrees most often is the width.
    pairs: Counter[tuple[int, int]] = Counter()
    for name in wrong:
        if tensors[name].ndim == expected[name].ndim:
            sizes = zip(tensors[name].shape, expected[name].shape, strict=True)
            pairs.update({(found, wanted) for found, wanted in sizes if found != wanted})
    width = getattr(model, "embed_dim", None)
    for (found, wanted), count in pairs.most_common():
        if wanted == width and count > 1:
            hints.append(f"it looks like a model of embed_dim {found}, this one has {wanted}")
            break
    for stack, (found, wanted) in _depths(tensors, expected).items():
        hints.append(f"it has {found} {stack!r} and the model {wanted}")
    return hints


def _depths(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """The numbered stacks (`layers.0`, `layers.1`, ...) whose lengths differ, outermost only."""

    def count(names: Mapping[str, Tensor]) -> dict[str, int]:
        numbered = [match.groups() for name in names if (match := re.match(r"(\D+?)\.(\d+)\.", name))]
        return {stack: len({index for other, index in numbered if other == stack}) for stack, _ in numbered}

    found, wanted = count(tensors), count(expected)
    return {
        stack: (found[stack], wanted[stack])
        for stack in wanted
        if stack in found and found[stack] != wanted[stack]
    }
