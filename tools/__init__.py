"""Programs for working on this repository; the wheel does not contain them."""
