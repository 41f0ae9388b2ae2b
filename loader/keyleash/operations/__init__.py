"""The declaration of an operation, and what is derived from it.

An operation is a function whose first parameter is the store, in the package that owns its data:

    @operation("token renew")
    def renew_token(store: Store, token_id: TokenId, *, ttl: Duration | None = None) -> Renewal:

- `api/nouns.py` lists it: `renew = renew_token`. `TokenOperations[Runner]` has the methods of
  `keyleash.Operator.tokens`, and `TokenOperations[AsyncRunner]` those of `keyleash.asyncio`. Type
  checkers read both from the signature of the function; a method of either checks its arguments at
  once, and that no text is a token, but for the names in `MAY_BE_TOKENS`.
- The annotations are types of parameters (`operations/types.py`), which `cli/derive.py` makes
  arguments and options of: how they are read, their help, and what is checked before the server
  is asked.
- Options that several operations share are a `TypedDict`: `**options: Unpack[TokenOptions]`.
- `operator/roles.py` has the ACL users of operators; roles name operations by their commands.

What needs a client in place of a store is a `method` of a noun. Operations in `api/` (loading,
the report) use `Policy`, or packages of which none owns the data of both.
"""

from keyleash.operations.arguments import checked
from keyleash.operations.declare import (
    F,
    Noun,
    Operation,
    Parameter,
    Reading,
    method,
    operation,
    reading,
)
from keyleash.operations.run import AsyncRunner, Runner

__all__ = [
    "AsyncRunner",
    "F",
    "Noun",
    "Operation",
    "Parameter",
    "Reading",
    "Runner",
    "checked",
    "method",
    "operation",
    "reading",
]
