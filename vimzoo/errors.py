"""Errors of this package that a user can mend."""


class UsageError(ValueError):
    """A request that cannot be met; the message names the argument, what came and what was expected."""
