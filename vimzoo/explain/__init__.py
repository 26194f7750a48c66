"""Explains models: class activation maps, the matrices of scans, and receptive fields.

`cam_arguments` prepares a classifier for pytorch-grad-cam, `token_mixing` gives the matrices of every scan in a model,
and `receptive_field` the effective receptive field of the centre of a model's output. Methods that only call a model
or differentiate it, such as captum's integrated gradients and occlusion, need no preparation.
"""

from .cam import cam_arguments
from .field import receptive_field
from .mixing import TokenMixing, scan_matrices, token_mixing

__all__ = ["TokenMixing", "cam_arguments", "receptive_field", "scan_matrices", "token_mixing"]
