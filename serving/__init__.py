"""The browser app: similar studies, patch similarity and attention."""
