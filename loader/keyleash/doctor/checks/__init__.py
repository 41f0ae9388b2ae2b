"""One file for each thing that is looked at; `codes.py` has what they find."""
