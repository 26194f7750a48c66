"""Errors of this package that a user can fix."""

from __future__ import annotations

import re
from collections.abc import Callable


class UsageError(ValueError):
    """A request that cannot be met; the message names the argument, what came and what was expected.

    Code that does not know how its user gives an argument (`vimzoo.data`) writes its name in backquotes, so that a
    caller can put another one in its place.
    """

    def renamed(self, name: Callable[[str], str | None]) -> UsageError:
        """The same error with other names for its arguments.

        Args:
            name: The argument's name, as it stands in backquotes -> what to write instead; None leaves it as it is.
        """
        return UsageError(re.sub(r"`(\w+)`", lambda match: name(match[1]) or match[0], str(self)))
