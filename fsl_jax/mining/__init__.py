"""Which pairs and triplets of a batch take part in the loss."""
