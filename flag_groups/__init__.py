"""The flags of train.py by group: model, training, text; see `flags.py`."""
