"""The parts of the drawn catalogue: what the articles are, how they look, how they are photographed."""
