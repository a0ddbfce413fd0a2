"""How frames become masks: descriptors of patches, co-segmentation, TokenCut, baselines and scores."""
