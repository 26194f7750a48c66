"""Depthwise causal convolution along a sequence."""
