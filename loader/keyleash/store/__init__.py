"""The data shared by clients, guards and the loader: key names, layouts, records, requests."""
