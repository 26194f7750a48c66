"""LocalVMamba: VMamba's first release, reading rows, columns and windows; the package registers its variants."""

from collections.abc import Sequence
from typing import Any

from vimzoo.layers import LocalVSSBlock
from vimzoo.layers.local import block_directions

from ..export_options import ExportOptions
from ..vmamba.dense import VMambaDense
from ..vmamba.model import VMamba
from .names import LOCAL_VMAMBA


class LocalVMamba(VMamba):
    """LocalVMamba with timm's model contract; any image size.

    Args:
        directions: The directions of the blocks, names as `vimzoo.layers.local.local_path` takes them: one set for
            all blocks or one per block. ``"search"``: a network all of whose blocks weight eight directions;
            `vimzoo.layers.searched_directions` reads the result.
        depths, d_state, ratio, conv_bias, gate, mlp_ratio, stem, downsample: As in `VMamba`; the defaults are those of
            its first release.
        **options: As `VMamba` takes them, except ``paths`` and ``block_args``.

    Raises:
        TypeError: an option is unknown.
        ValueError: an option has no such value, or a size is not positive.
    """

    export_options = ExportOptions(one_size=True)
    dialect = LOCAL_VMAMBA
    block_class = LocalVSSBlock

    def __init__(
        self,
        directions: str | Sequence[str] | Sequence[Sequence[str]] = "search",
        *,
        depths: Sequence[int] = (2, 2, 9, 2),
        d_state: int = 16,
        ratio: float = 2.0,
        conv_bias: bool = True,
        gate: str = "act",
        mlp_ratio: float = 0.0,
        stem: str = "patch",
        downsample: str = "merge",
        **options: Any,
    ) -> None:
        if foreign := sorted({"paths", "block_args"} & options.keys()):
            raise TypeError(
                f"{type(self).__name__}() has no option {', '.join(foreign)}; expected directions"
            )
        sets = block_directions(directions, sum(depths))
        super().__init__(
            depths=depths, d_state=d_state, ratio=ratio, conv_bias=conv_bias, gate=gate, mlp_ratio=mlp_ratio,
            stem=stem, downsample=downsample, block_args=[{"paths": names} for names in sets], **options,
        )  # fmt: skip


class LocalVMambaDense(VMambaDense, LocalVMamba):
    """Maps of chosen stages, each with a norm of its own, as the authors' OpenMMLab code uses them.

    Args:
        out_indices: Stages whose maps are returned.
        norm, **kwargs: As `LocalVMamba` takes them.
    """
