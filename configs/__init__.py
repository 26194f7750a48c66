"""Hydra configuration groups; the keys of a group are the keyword arguments of the function they feed."""
