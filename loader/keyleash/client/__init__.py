"""Drop-in redis-py clients whose every command goes through a guard."""
