"""The page: similar patches, attention and similar studies in the browser, served with the service."""
