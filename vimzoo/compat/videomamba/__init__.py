"""The VideoMamba authors' constructors (OpenGVLab/VideoMamba), returning our modules.

The authors define a class ``VisionMamba`` in several files, so each has a module here, called as in their repository:

| theirs | here |
| --- | --- |
| ``image_sm/models/videomamba.py`` | `vimzoo.compat.videomamba.image_sm` |
| ``image_sm/models/videomamba_distill.py`` | `vimzoo.compat.videomamba.image_distill` |
| ``video_sm/models/videomamba.py`` | `vimzoo.compat.videomamba.video_sm` |
| ``video_sm/models/videomamba_pretrain.py`` | `vimzoo.compat.videomamba.video_pretrain` |
| ``video_mm/models/backbones/videomamba/videomamba.py`` | `vimzoo.compat.videomamba.multimodal` (``video_mm``) |
| ``mamba_ssm/modules/mamba_simple.py`` of their fork | `vimzoo.compat.videomamba.mamba_simple` |

Code written for theirs works after changing its import line: arguments keep their names, positions, defaults and
meaning, and ``load_state_dict`` takes their keys. `official_state_dict` and `official_gradients` write state and
gradients back under their names.
"""

from ..official import official_gradients, official_state_dict
from . import image_distill, image_sm, mamba_simple, video_pretrain, video_sm
from . import multimodal as video_mm
from .mamba_simple import Mamba, create_block

__all__ = [
    "Mamba",
    "create_block",
    "image_distill",
    "image_sm",
    "mamba_simple",
    "official_gradients",
    "official_state_dict",
    "video_mm",
    "video_pretrain",
    "video_sm",
]
