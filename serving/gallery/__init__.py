"""The gallery: feature vectors on disk with an index and what is known of them, searched by cosine."""
