"""One file a published method; the contract is in base.py."""
