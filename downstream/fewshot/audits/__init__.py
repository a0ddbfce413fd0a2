"""Audits: what the connected-component step and test-time training do, slice by slice."""
