"""Mining: which pairs and triplets of a batch, or of the whole set, a loss looks at."""
