"""Films in and out, frame by frame: reading, colours, encoders, parts. Needs PyAV, the extra `films`."""

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob", ".wmv", ".flv",
    ".ogv", ".3gp", ".mxf", ".y4m", ".nut",
)  # fmt: skip
"""Of files that are read as films."""
