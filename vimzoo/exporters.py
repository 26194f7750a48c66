"""The former name of `vimzoo.exporting`."""

from vimzoo.exporting import *  # noqa: F403
