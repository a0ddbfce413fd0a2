"""Studies and the shards that hold them."""
