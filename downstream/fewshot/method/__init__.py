"""The few-shot method: features of slices, prototypes, predictors, masks, and the published protocol."""
