"""Judges: retrieval, episodes, classification, and the report."""
