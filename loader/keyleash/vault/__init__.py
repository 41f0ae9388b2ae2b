"""The vault: data and control keys under random prefixes that agents do not know."""
