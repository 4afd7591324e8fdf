"""The layer store: what was made once, by the key of what it was made from."""
