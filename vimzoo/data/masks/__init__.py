"""Data sets of images and masks, in which every pixel has a class."""
