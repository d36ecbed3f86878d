"""One file a data set: each has load(root, split, **options) -> Table."""
