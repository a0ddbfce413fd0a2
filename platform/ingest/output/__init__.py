"""What lies in an output folder beside the shards: rows of files, versions, listings."""
