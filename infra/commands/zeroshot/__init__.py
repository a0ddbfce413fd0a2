"""`vetdino zeroshot COMMAND`: structures in b-mode ultrasound without training and without labels."""
