"""Slow NumPy oracles, written from the papers; they import nothing of this project."""
