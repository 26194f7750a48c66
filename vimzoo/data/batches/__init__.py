"""Drawing and loading batches."""
