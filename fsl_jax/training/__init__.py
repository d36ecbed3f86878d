"""The one loop and the one step that every method shares."""
