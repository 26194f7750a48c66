"""The papers' own constructors and parameter names, as tables of renames onto our modules."""
