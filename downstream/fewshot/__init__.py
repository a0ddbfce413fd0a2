"""An organ in CT or MRI, found from one labelled scan or a few."""
