"""What an archive holds: files of a folder or store, members of containers, rows of a table."""
