"""The web service, its page, and exported artifacts."""
