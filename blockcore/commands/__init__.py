"""The QMP commands, a module per subject; `table.py` puts them together."""
