"""How often text burned into pixels is found, and how often there is a false alarm."""
