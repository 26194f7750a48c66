"""Weight files: reading them safely, finding the weights in them, and renaming them."""
