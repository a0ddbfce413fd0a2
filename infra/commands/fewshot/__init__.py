"""`vetdino fewshot COMMAND`: organs of CT and MRI scans from one labelled scan or a few."""
