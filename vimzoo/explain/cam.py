"""Prepares classifiers for pytorch-grad-cam."""

from torch import nn

from vimzoo.errors import UsageError
from vimzoo.models.class_maps import CamArguments
from vimzoo.models.registry import family_of


def cam_arguments(model: nn.Module, image_size: tuple[int, int] | None = None) -> CamArguments:
    """The layer whose map a class activation map is made of, and the function that makes it ``(B, C, H, W)``.

    With pytorch-grad-cam::

        with GradCAM(model, *vimzoo.explain.cam_arguments(model)) as cam:
            heat = cam(images, [ClassifierOutputTarget(281)])  # (B, H, W), in 0..1

    Each family names its own layer, see `vimzoo.models.family.Family`.

    Args:
        model: A classifier of this package.
        image_size: Height and width of the images, if it is not the one that the model was made for.

    Raises:
        UsageError: the model is of no family, is not a whole classifier, or its family has no classes.
    """
    family = family_of(model)
    if family is None:
        raise UsageError(f"`model`: expected a classifier of vimzoo, got {type(model).__name__}")
    if family.cam is None:
        raise UsageError(
            f"`model`: expected a classifier, got {type(model).__name__}; which pixels its output depends on is shown "
            "by vimzoo.explain.receptive_field"
        )
    if not hasattr(model, "forward_features"):
        raise UsageError(
            f"`model`: expected a whole model of the family {family.name}, got {type(model).__name__}"
        )
    return family.cam(model, image_size)
