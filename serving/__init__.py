"""What people see: similar studies, patch similarity and attention, in a browser."""
