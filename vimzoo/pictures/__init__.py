"""Picture files in and out, for every command: one reader, one writer."""
