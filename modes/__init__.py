"""What train.py does, a file a mode, and what the modes begin with.

A mode's `set_up` checks everything that can be checked and returns what then runs.
"""
