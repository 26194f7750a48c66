"""Settings from the command line, checked before any work begins."""
