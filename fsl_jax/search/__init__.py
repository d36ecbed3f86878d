"""Index a catalogue, search it, classify from a few photos."""
