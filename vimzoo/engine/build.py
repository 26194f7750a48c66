"""Builds data, model, optimizer, schedule and loss from the configuration, mostly by timm's functions."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from timm.optim import Muon, create_optimizer_v2, get_optimizer_info
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from vimzoo.commands import slow_half
from vimzoo.data import SOURCES, Splits
from vimzoo.errors import UsageError, first_line
from vimzoo.models import fallback_list

from .classes import warn
from .configuration.check import AMP
from .configuration.fitting import LOADER_KEYS, check_fitting, made_for
from .configuration.naming import naming_settings
from .create import model_cfg
from .processes import parallel
from .processes.parallel import World
from .record import Mixer
from .state import State
from .tasks import find_task
from .teacher import build_teacher


def pick_device(name: str, local_rank: int = 0, argument: str = "run.device=") -> torch.device:
    """A device by its name in torch; ``auto`` is this process's GPU, or the CPU if there is none.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or another that torch knows.
        local_rank: This process's number on its machine.
        argument: What errors call the name, with the sign that stands before it.

    Raises:
        UsageError: the device is unknown or not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise UsageError(f"{argument}{name}: {reason}; expected auto, cpu, cuda or cuda:N") from error
    return device


def build_data(cfg: dict[str, Any], pretrained_cfg: Mapping[str, Any] | None = None) -> Splits:
    """The group ``data`` (without what the loader takes) and ``aug.transform`` are the arguments of a data source.

    Args:
        cfg: The configuration.
        pretrained_cfg: What the model says of its images, under timm's names; by default that of the registered model.

    Raises:
        UsageError: unknown source or argument, data of another task, or data that are missing or unusable.
    """
    check_fitting(cfg)
    options = {key: value for key, value in cfg["data"].items() if key not in LOADER_KEYS}
    source = cfg["data"]["source"]
    root = options.get("root")
    if not isinstance(root, str | None):
        word = shlex.quote(f'data.root="{root}"')
        raise UsageError(
            f"data.root={root} is of type {type(root).__name__}; for a folder of that name quote it: {word}"
        )
    if pretrained_cfg is None:
        pretrained_cfg = model_cfg(cfg["model"]["model_name"])
    given = {"aug": cfg["aug"]["transform"], "seed": cfg["run"]["seed"], "pretrained_cfg": pretrained_cfg}
    with naming_settings(cfg):
        try:
            return SOURCES[source].load(**options, **given)
        except TypeError as error:
            raise UsageError(f"data={source}: {error}") from error
        except UsageError as error:
            if not str(error).startswith("`aug`") or (usual := made_for(source)) is None:
                raise
            raise UsageError(f"{error}; aug={usual} is made for data={source}") from error


def _checked(group: str, options: dict[str, Any], function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call one of timm's functions; errors name the group of the configuration that its arguments come from."""
    try:
        return function(*args, **options, **kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"{group} {options}: {error}") from error


def build_state(cfg: dict[str, Any], data: Splits, steps_per_epoch: int, world: World | None = None) -> State:
    """Build model, average, optimizer, schedule and loss on the chosen device.

    Raises:
        UsageError: a library refuses a value; names the group.
    """
    run, task, world = cfg["run"], find_task(cfg["task"]), world or World()
    device, amp = pick_device(run["device"], world.local_rank), AMP[run["amp"]]
    if world.main:
        slow_half(amp, device, "run.amp")
    model = task.build_model(cfg, data).to(device)
    if run["sync_bn"]:
        model = synchronised(model, device, world)
    mixup, criterion = _build_loss(cfg, data, world)
    teacher = build_teacher(cfg, data, task).to(device) if cfg.get("teacher") else None
    if teacher is not None and teacher.model is not None:
        getattr(
            model, "set_distilled_training", lambda: None
        )()  # timm's, of models with an output for a teacher
    frozen = freeze(model, run["freeze"]) if run["freeze"] else []
    if run["grad_checkpointing"]:
        set_grad_checkpointing(model)
    ema = _checked("run.ema", run["ema"], ModelEmaV3, model) if run["ema"] else None
    if run["parallel"] == "fsdp" and world.size > 1:
        for sharded in [model] if ema is None else [model, ema.module]:
            parallel.shard(sharded)
        if ema is not None and any(buffer.is_floating_point() for buffer in model.buffers()):
            ema.foreach = False  # running statistics are no DTensors, and one call takes either kind
    forward = parallel.wrap(model, world, device)
    optimizer = _checked("optim", cfg["optim"], build_optimizer, model)
    scheduler, epochs = _checked(
        "sched", cfg["sched"], create_scheduler_v2, optimizer, updates_per_epoch=steps_per_epoch
    )
    if epochs != run["epochs"]:
        raise UsageError(
            f"run.epochs={run['epochs']}, but sched {cfg['sched']} lasts {epochs}, with what comes before and after "
            "its num_epochs; set both"
        )
    warn_of_milestones(cfg["sched"], epochs)
    return State(
        task=task,
        model=model,
        forward=torch.compile(forward, dynamic=data.batching.any_shape or None)
        if run["compile"]
        else forward,
        ema=ema,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=torch.amp.GradScaler(device.type, enabled=amp is torch.float16),
        criterion=criterion,
        mixup=mixup,
        teacher=teacher,
        device=device,
        amp=amp,
        clip_grad=run["clip_grad"],
        epochs=epochs,
        updates_per_epoch=steps_per_epoch,
        seed=run["seed"],
        on_nonfinite=run["on_nonfinite"],
        early_stop=run.get("early_stop"),
        world=world,
        accumulate=run["accumulate"],
        frozen=frozen,
        data=data.record(),
        order=data.batching.order,
    )


def build_optimizer(model: nn.Module, opt: str, **options: Any) -> torch.optim.Optimizer:
    """timm's ``create_optimizer_v2``; parameters that are not matrices are on the fallback list of Muon's variants."""
    kind = get_optimizer_info(opt.lower().rpartition("_")[2]).opt_class
    if isinstance(kind, type) and issubclass(kind, Muon):  # text: a class of another library
        options["fallback_list"] = [*fallback_list(model), *(options.get("fallback_list") or ())]
    return create_optimizer_v2(model, opt=opt, **options)


def warn_of_milestones(sched: dict[str, Any], epochs: int) -> None:
    """Warn about milestones of the schedule that lie beyond the end of the run."""
    milestones = sched.get("decay_milestones") or () if sched.get("sched") == "multistep" else ()
    if beyond := [epoch for epoch in milestones if epoch >= epochs]:
        warn(
            f"sched.decay_milestones={list(milestones)}: {len(beyond)} of {len(milestones)} are not before the end of "
            f"the run, run.epochs={epochs}; the learning rate is not lowered there"
        )


def _build_loss(cfg: dict[str, Any], data: Splits, world: World) -> tuple[Mixer | None, nn.Module]:
    """The task's loss, and its mixup, which needs an even number of images in each process."""
    try:
        mixup, criterion = find_task(cfg["task"]).build_loss(cfg, data)
    except (TypeError, AssertionError) as error:
        reason = str(error) or type(error).__name__
        raise UsageError(f"loss={cfg['loss']}, aug.mixup {cfg['aug']['mixup']}: {reason}") from error
    asked = cfg["data"]["batch_size"]
    share = min(asked, len(data.train)) // world.size
    if mixup is not None and share % 2 and not data.batching.any_shape:
        raise UsageError(
            f"data.batch_size={asked}: mixup and cutmix need an even number for each process, not {share}"
        )
    return mixup, criterion


def synchronised(model: nn.Module, device: torch.device, world: World) -> nn.Module:
    """Convert batch norms to synchronised ones.

    Raises:
        UsageError: the device is not a GPU, which torch requires.
    """
    if world.size > 1 and device.type != "cuda":
        raise UsageError(
            f"run.sync_bn=true: torch synchronises batch norms on CUDA only, not on {device.type}"
        )
    return convert_sync_batchnorm(model)


def freeze(model: nn.Module, what: str | list[str]) -> list[nn.Module]:
    """Freeze all parameters except the classifier's (``backbone``), or those that match a pattern.

    Returns:
        The outermost modules without a trainable parameter, which stay in evaluation mode.

    Raises:
        UsageError: a pattern matches nothing, no parameter is left to train, or the model has no classifier.
    """
    patterns = ["*"] if what == "backbone" else [what] if isinstance(what, str) else what
    for pattern in patterns:
        matching = [p for name, p in model.named_parameters() if fnmatch.fnmatch(name, pattern)]
        if not matching:
            raise UsageError(f"run.freeze: {pattern} matches no parameter of {type(model).__name__}")
        for parameter in matching:
            parameter.requires_grad_(False)
    if what == "backbone":
        if not isinstance(head := getattr(model, "get_classifier", lambda: None)(), nn.Module):
            raise UsageError(f"run.freeze=backbone: {type(model).__name__} has no classifier to train")
        head.requires_grad_(True)
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError(f"run.freeze={what}: nothing is left to train")
    return _outermost_frozen(model)


def _outermost_frozen(module: nn.Module) -> list[nn.Module]:
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        return [module]
    return [found for child in module.children() for found in _outermost_frozen(child)]


def set_grad_checkpointing(model: nn.Module) -> None:
    """Turn on gradient checkpointing.

    Raises:
        UsageError: the model does not support it.
    """
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise UsageError(f"run.grad_checkpointing=true: {type(model).__name__} has no such mode") from error
