"""The page and its scripts that `vimzoo.export --format web` copies."""
