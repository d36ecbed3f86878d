"""Tables of photos, and how their rows reach the devices."""
