"""The papers' own constructors and parameter names, mapped to our modules."""
