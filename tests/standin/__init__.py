"""A stand-in for enroot; the program is `enroot` in this folder."""
