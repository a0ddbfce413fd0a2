"""What the service can do, without HTTP: decode, embed, search, keep uploads."""
