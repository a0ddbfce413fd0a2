"""The page in a browser: hover, pin, first paint, and the list of a million studies."""
