"""MambaIR in spandrel, and so in ComfyUI, chaiNNer and whatever else loads models with it.

import spandrel, vimzoo.spandrel

vimzoo.spandrel.install()
model = spandrel.ModelLoader().load_from_file("mambairv2_lightSR_x2.pth")
restored = model(image)  # (1, 3, H, W) in 0..1 -> (1, 3, 2H, 2W)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import UsageError
from .models.inferred import find_network, restoration_from_tensors
from .models.registry import FAMILIES
from .models.restoration_base import RestorationModel
from .models.routes import check_routing, with_routes

__all__ = ["install"]


def install(registry: Any = None, *, routing: str | None = None, seed: int = 0) -> list[Any]:
    """Teach spandrel to detect and load this package's restoration networks, each as ``vimzoo.CLASS``.

    Files of the authors and of this package are read, whatever the network's size; `vimzoo.restoration_from_tensors`
    builds it. Installing again replaces ``routing`` and ``seed`` for models that are loaded later.

    Args:
        registry: A ``spandrel.ArchRegistry``; by default ``spandrel.MAIN_REGISTRY``, which every loader uses.
        routing: How a MambaIRv2 chooses its routes: ``"gumbel"``, at random, or ``"argmax"``, the likeliest. By
            default as its file records, else ``"gumbel"``, as published.
        seed: Of random routes. Each call of a descriptor begins anew with it, so that equal images give equal results.

    Returns:
        The registry's entries for them, each a ``spandrel.ArchSupport``.

    Raises:
        UsageError: spandrel is not installed.
        ValueError: there is no such routing.
    """
    try:
        from spandrel import MAIN_REGISTRY, ArchSupport
    except ImportError as error:
        raise UsageError(f"{error}; install it with: pip install 'vimzoo[spandrel]'") from error
    if routing is not None:
        check_routing(routing)
    registry = MAIN_REGISTRY if registry is None else registry
    found = []
    for kind in (network for family in FAMILIES.values() for network in family.networks):
        name = f"vimzoo.{kind.__name__}"
        if name not in registry:
            registry.add(ArchSupport.from_architecture(_architecture(name, kind)))
        entry = registry[name]
        entry.architecture.routes = (routing, seed)
        found.append(entry)
    return found


def _architecture(name: str, kind: type[Any]) -> Any:
    """spandrel's description of one class of network; made here because its base class is spandrel's."""
    from spandrel import Architecture, ImageModelDescriptor, ModelTiling, SizeRequirements

    class Network(Architecture[RestorationModel]):
        routes: tuple[str | None, int] = (None, 0)

        def load(self, state_dict: Mapping[str, Any]) -> ImageModelDescriptor[RestorationModel]:
            routing, seed = self.routes
            model = restoration_from_tensors(state_dict, routing=routing)

            def call(model: RestorationModel, image: Tensor) -> Tensor:
                seeds = [(seed, place) for place in range(len(image))]
                return with_routes(model, seeds, image.device)(image)

            return ImageModelDescriptor(
                model,
                model.state_dict(),
                architecture=self,
                purpose="Restoration" if model.scale == 1 else "SR",
                tags=_tags(model),
                supports_half=True,
                supports_bfloat16=True,
                scale=model.scale,
                input_channels=model.in_chans,
                output_channels=model.in_chans,
                size_requirements=SizeRequirements(multiple_of=model.multiple_of),
                tiling=ModelTiling.SUPPORTED,
                call_fn=call,
            )

    return Network(id=name, name=kind.__name__, detect=lambda state: find_network(state) is kind)


def _tags(model: Any) -> list[str]:
    """Width, number of parameters, and routing where the model routes."""
    parameters = sum(p.numel() for p in model.parameters())
    tags = [f"{model.embed_dim}dim", f"{parameters / 1e6:.2f}M"]
    return tags if getattr(model, "routing", None) is None else [*tags, model.routing]
