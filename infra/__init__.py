"""The roof: command line, submission to a cluster, generated reference. May import every room."""
