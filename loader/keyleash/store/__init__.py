"""What travels between a client, a guard and the loader: names, layouts, records, lines."""
