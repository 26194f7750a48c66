"""Restores pictures: file formats, tiles and whole folders. The command is `python -m vimzoo.restore`."""

try:
    from vimzoo.pictures.picture import MAX_PIXELS, Picture, PictureError
    from vimzoo.pictures.reading import read_picture
    from vimzoo.pictures.writing import write_picture

    from .files import restore_file, restore_files
    from .folders import Interrupted, Job, Report, find_jobs
    from .origin import claim_results
    from .restorer import Restorer
    from .weights import restoration_model
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"vimzoo.restoration needs {error.name}; pip install 'vimzoo[restore]'", name=error.name
    ) from None

__all__ = [
    "MAX_PIXELS",
    "Interrupted",
    "Job",
    "Picture",
    "PictureError",
    "Report",
    "Restorer",
    "claim_results",
    "find_jobs",
    "read_picture",
    "restoration_model",
    "restore_file",
    "restore_files",
    "write_picture",
]
