"""Loader, ingest and embed with one worker and with two."""
