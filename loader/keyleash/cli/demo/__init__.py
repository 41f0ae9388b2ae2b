"""`keyleash demo`: a session of agents on a server of its own, where every answer is checked."""
