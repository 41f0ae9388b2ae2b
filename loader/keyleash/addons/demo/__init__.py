"""A session of agents on an empty server, in which every reply is checked."""
