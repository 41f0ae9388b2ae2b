"""The MCP server: Redis for language models, as far as the grants of a token go.

It decides nothing: a token gets the same verdicts with it or without it. `forms` has the tools that
are one command each, `tools` lists those of a token, `results` makes results of replies and
denials, `holder` makes the calls of a token, `requests` bounds what a client of HTTP may take,
`serve` speaks the protocol, and `operators` has the read-only tools of operators.
"""
