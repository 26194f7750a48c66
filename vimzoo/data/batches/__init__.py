"""How batches are drawn and loaded."""
