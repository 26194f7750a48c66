"""Sources of the native kernels; see README.md beside this file."""
