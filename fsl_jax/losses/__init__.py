"""Distances and losses: elements with a mask, and the reducers that divide."""
