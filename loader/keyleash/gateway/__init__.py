"""The gateway: any Redis client, in any language, by a URL alone.

A client in a box: it has no policy and no state, and decides nothing. A token gets the same
verdicts with it or without it. `serve` accepts connections, logs them in and bounds them.
`connection` turns the commands of one into calls of its guard, by `batches`, `transactions` and
`subscriptions`, within the bounds of `flow`; `own` answers login and what is about the connection
alone. `agent` has what connections with one token share, `upstream` the connections to servers,
which all agents share, and `resp` the protocol.
"""
