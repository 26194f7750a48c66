"""What a run reports: console, CSV, curves, trackers."""
