"""Custom nodes for ComfyUI; copy this folder into ``ComfyUI/custom_nodes`` (docs/ecosystem.md).

"Load Upscale Model" reads MambaIR's files from then on, and there is a node "Restore (MambaIR)".
"""

from vimzoo.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from vimzoo.spandrel import install

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

install()
