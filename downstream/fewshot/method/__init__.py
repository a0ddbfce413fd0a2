"""The few-shot method itself: features of slices, prototypes, components, protocol."""
