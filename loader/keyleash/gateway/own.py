"""The commands that the gateway answers itself: login, and what is about the connection alone."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

from redis.exceptions import ResponseError

from keyleash.client.actions import Words
from keyleash.client.answers import callable_commands, command_reply, info_reply
from keyleash.client.command_words import Role, role_of, script_call_of, upper
from keyleash.client.correlation import correlation
from keyleash.client.once import check_id, once
from keyleash.commands import CommandTable, load_table
from keyleash.commands.facts import SCRIPT_CALLS
from keyleash.errors import KeyleashError, LeashError, SlotNotServedError
from keyleash.gateway.resp import Status, encoded, error_line
from keyleash.store.wire import ONCE, declared_keys

Handler: TypeAlias = Callable[[Any, Words], Coroutine[Any, Any, bytes]]
OK = b"+OK\r\n"
HELP = (
    b"KEYLEASH WHOAMI: what the token allows; KEYLEASH CAN <command ...>: OK if it would be allowed"
    b" now, else its denial; KEYLEASH ONCE <id> <command ...>: run it at most once for the id"
)
MAX_ASKED = 256
"""Names in one COMMAND INFO or DOCS."""
MAX_CLIENT_NAME = 1024
"""Bytes of the name of a connection."""
SUBSCRIBED = "end the subscriptions of this connection first"
ACCEPTED = frozenset({"SETINFO", "NO-EVICT", "NO-TOUCH"})
"""Sub-commands of CLIENT that change nothing here."""
OF_CLIENT = ACCEPTED | {"GETNAME", "GETREDIR", "ID", "INFO", "LIST", "SETNAME", "TRACKINGINFO"}
"""Those that the gateway answers."""
_TABLE = load_table()


def require_count(words: Words) -> None:
    """Raise the error of a server for a wrong number of arguments, or an unknown sub-command."""
    if problem := _TABLE.problem(words):
        raise ResponseError(problem)


def is_queued(words: Words) -> bool:
    """Return whether the gateway answers a command within MULTI itself, after EXEC."""
    if words[0] in QUEUED:
        require_count(words)
    return words[0] in QUEUED and (words[0] != "CLIENT" or upper(words[1]) in OF_CLIENT)


async def answer(connection: Any, words: Words) -> bytes:
    """Return the reply to such a command, which may be an error."""
    handler = COMMANDS.get(words[0])
    try:
        if handler is not None:
            return await handler(connection, words)
        return OK if words[0] == "UNWATCH" else await connection.subscriptions.subscribe(words)
    except (ResponseError, KeyleashError) as error:
        return b"-%b\r\n" % error_line(error)


def is_one_word(name: str) -> bool:
    """Return whether a name is ASCII without blanks, where the client library would split it."""
    return name.isascii() and name.split() == [name]


def text_of_name(name: bytes) -> str:
    """Return the name of a connection as a correlation id; raise the errors of `set_name`."""
    if len(name) > MAX_CLIENT_NAME:
        raise ResponseError(f"Client names cannot be longer than {MAX_CLIENT_NAME} bytes.")
    if name.translate(None, bytes(range(33, 127))):
        problem = "Client names cannot contain spaces, newlines or special characters."
        raise ResponseError(problem)
    with correlation(text := name.decode("latin-1")[:256]):
        return text


def source_of(transport: Any) -> str:
    """Return the address of a connection, and the subject of its client certificate."""
    peer = transport.get_extra_info("peername")
    address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
    names = (transport.get_extra_info("peercert") or {}).get("subject", ())
    subject = ",".join(f"{name}={value}" for several in names for name, value in several)
    return f"{address} {subject}" if subject else address


async def login(connection: Any, user: bytes, password: bytes, protocol: int) -> None:
    """Authenticate a connection with a token.

    Raises:
        ResponseError: WRONGPASS, with the code of the denial.
    """
    gateway = connection.gateway
    if connection.subscriptions.listener is not None:
        # They are those of the token before.
        raise ResponseError(SUBSCRIBED)
    try:
        agent = await gateway.login(password.decode("ascii", "replace"), user, protocol)
    except LeashError as denial:
        # Its details are those of an identity that the agent may not have.
        raise ResponseError(f"LEASH {denial.code}", status_code="WRONGPASS") from None
    except SlotNotServedError:
        # It says nothing about the token.
        raise
    except (KeyleashError, ValueError) as error:
        raise ResponseError(str(error).splitlines()[0], status_code="WRONGPASS") from None
    connection.authenticated(agent, protocol)


async def auth(connection: Any, words: Words) -> bytes:
    """AUTH [user] token."""
    if len(words) > 3:
        raise ResponseError("syntax error")
    user = words[1] if len(words) == 3 else b""
    await login(connection, user, words[-1], connection.protocol)
    return OK


async def hello(connection: Any, words: Words) -> bytes:
    """HELLO [protocol [AUTH user token] [SETNAME name]]."""
    protocol, at, name = connection.protocol, 2, None
    credentials = None
    if len(words) > 1:
        if words[1] not in (b"2", b"3"):
            raise ResponseError("unsupported protocol version", status_code="NOPROTO")
        protocol = int(words[1])
    while at < len(words):
        option = upper(words[at])
        if option == "AUTH" and at + 2 < len(words):
            credentials = words[at + 1 : at + 3]
            at += 3
        elif option == "SETNAME" and at + 1 < len(words):
            text_of_name(name := words[at + 1])
            at += 2
        else:
            raise ResponseError(f"Syntax error in HELLO option '{option.lower()[:64]}'")
    if credentials:
        await login(connection, credentials[0], credentials[1], protocol)
    elif connection.agent is None:
        raise ResponseError("log in first, or add AUTH <user> <token>", status_code="NOAUTH")
    elif protocol != connection.protocol:
        if connection.subscriptions.listener is not None:
            raise ResponseError(SUBSCRIBED)
        connection.authenticated(connection.gateway.agent_of(connection.agent, protocol), protocol)
    if name is not None:
        connection.set_name(name)
    reply = {**_facts(connection), "proto": protocol, "id": connection.number}
    return encoded(words, reply, protocol)


def _facts(connection: Any) -> dict[str, Any]:
    """Return what HELLO says of the server; of a cluster, whose nodes no agent reaches, of one."""
    return {**connection.gateway.upstream.hello, "mode": "standalone", "role": "master"}


async def client(connection: Any, words: Words) -> bytes:
    """CLIENT: what is about the connections of the token; the guard denies the rest."""
    sub = upper(words[1])
    if sub == "SETNAME":
        connection.set_name(words[2])
    if sub in ("SETNAME", *ACCEPTED):
        return OK
    if sub == "GETNAME":
        return encoded(words, connection.name or None, connection.protocol)
    if sub == "ID":
        return b":%d\r\n" % connection.number
    if sub == "INFO":
        return encoded(words, _described(connection), connection.protocol)
    if sub == "LIST" and len(words) == 2:
        token, every = connection.agent.key[0], connection.gateway.connections
        own = (other for other in every if other.agent and other.agent.key[0] == token)
        lines = map(_described, sorted(own, key=attrgetter("number")))
        return encoded(words, "".join(lines), connection.protocol)
    if sub in ("GETREDIR", "TRACKINGINFO"):
        raise ResponseError(f"the gateway does not cache, so it has no CLIENT {sub}")
    return bytes(await connection.transaction.run(words))


def _described(connection: Any) -> str:
    """Return the line of a connection in the replies of CLIENT LIST and CLIENT INFO."""
    address, user = connection.source.partition(" ")[0], connection.agent.session.identity
    name, database = connection.name[:256].decode("latin-1"), connection.gateway.upstream.database
    facts = f"id={connection.number} addr={address} name={name} db={database}"
    return f"{facts} user={user} resp={connection.protocol}\n"


async def ping(connection: Any, words: Words) -> bytes:
    """PING of a connection with subscriptions in RESP2, whose reply is an array."""
    return encoded(words, [b"pong", words[1] if len(words) > 1 else b""], 2)


async def select(connection: Any, words: Words) -> bytes:
    """SELECT of the database that tokens are for."""
    database = connection.gateway.upstream.database
    if words[1] != str(database).encode():
        raise ResponseError(f"tokens are for database {database}, and no other can be selected")
    return OK


async def command(connection: Any, words: Words) -> bytes:
    """COMMAND COUNT, LIST, DOCS and INFO of the commands that the grants allow; GETKEYS of all."""
    session = connection.agent.session
    names = callable_commands(session.guard.grants if session.guard else "", session.table)
    sub, asked = (upper(words[1]), words[2:]) if words[1:] else ("", ())
    if sub == "COUNT":
        return b":%d\r\n" % len(names)
    if sub == "GETKEYS":
        return encoded(words, _keys_of(session.table, asked), connection.protocol)
    if sub == "LIST":
        return encoded(words, [name.lower() for name in names], connection.protocol)
    if len(asked) > MAX_ASKED:
        raise ResponseError(f"COMMAND {sub} takes at most {MAX_ASKED} names")
    reply: Any = command_reply(names, asked or names)
    if sub == "DOCS":
        reply = {row[0]: {} for row in reply if row}
    elif sub not in ("", "INFO"):
        raise ResponseError(f"the gateway has no COMMAND {sub[:64]}")
    return encoded(words, reply, connection.protocol)


def _keys_of(table: CommandTable, words: Words) -> Sequence[bytes]:
    """Return the keys of a call, or raise the error of a server if it has none."""
    if not words:
        raise ResponseError("wrong number of arguments for 'command|getkeys' command")
    spec, name = table.find(words), upper(words[0])
    if spec is None:
        raise ResponseError("Invalid command specified")
    if len(words) < abs(spec.arity) or 0 < spec.arity < len(words):
        raise ResponseError("Invalid number of arguments specified for command")
    script = script_call_of(name, words[1:]) if name in SCRIPT_CALLS else None
    keys = script.keys if script else declared_keys(table, (name.encode(), *words[1:]))
    if not (keys or script):
        raise ResponseError("The command has no key arguments")
    return keys


async def info(connection: Any, words: Words) -> bytes:
    """INFO: the version, and lines that libraries wait for."""
    flat = [str(item).encode() for pair in _facts(connection).items() for item in pair]
    return encoded(words, info_reply(words, flat), connection.protocol)


async def keyleash(connection: Any, words: Words) -> bytes:
    """KEYLEASH: what the token allows, and commands with an idempotency id."""
    sub = upper(words[1]) if len(words) > 1 else ""
    if sub == ONCE.upper() and len(words) > 3:
        return await with_id(connection, words)
    if sub == "HELP":
        return encoded(words, [*map(Status, HELP.split(b"; "))], 2)
    if sub == "WHOAMI":
        return encoded(words, (await connection.agent.whoami()).to_dict(), connection.protocol)
    if sub != "CAN" or len(words) < 3 or not is_one_word(name := upper(words[2])):
        raise ResponseError("unknown sub-command or wrong number of arguments, see KEYLEASH HELP")
    # As ACL DRYRUN replies: an error would be taken for a question that cannot be asked.
    denial = (await connection.agent.can_i(name, *words[3:])).denial
    return OK if denial is None else encoded(words, denial.line, connection.protocol)


async def with_id(connection: Any, words: Words) -> bytes:
    """KEYLEASH ONCE id command …: give the command, or EXEC, an idempotency id."""
    name = upper(words[3])
    if name in COMMANDS or not is_one_word(name) or role_of(name) is Role.SUBSCRIPTION:
        raise ResponseError("only a command that the guard runs takes an id")
    try:
        block = once(check_id(words[2].decode("latin-1")))
    except ValueError as error:
        raise ResponseError(str(error).splitlines()[0]) from None
    with block:
        return bytes(await connection.transaction.run((name, *words[4:])))


async def cluster(connection: Any, words: Words) -> bytes:
    """CLUSTER, READONLY …: a gateway is one server, also before a cluster."""
    raise ResponseError("This instance has cluster support disabled")


async def reset(connection: Any, words: Words) -> bytes:
    """RESET: forget everything, also the token."""
    connection.reset()
    return b"+RESET\r\n"


async def quit(connection: Any, words: Words) -> bytes:
    """QUIT: reply, and close the connection. POST and Host:, which a browser sends: close it."""
    connection.outbox.write(OK if words[0] == "QUIT" else b"")
    connection.outbox.end()
    return b""


COMMANDS: dict[str, Handler] = {
    "ASKING": cluster, "AUTH": auth, "CLIENT": client, "CLUSTER": cluster, "COMMAND": command,
    "HELLO": hello, "HOST:": quit, "INFO": info, "KEYLEASH": keyleash, "POST": quit,
    "QUIT": quit, "READONLY": cluster, "READWRITE": cluster, "RESET": reset, "SELECT": select,
}  # fmt: skip
ALWAYS = frozenset({"HOST:", "KEYLEASH", "POST", "QUIT", "RESET"})
"""Those that are answered within MULTI, too."""
LOGIN = frozenset({"AUTH", "HELLO"})
"""Those that are not answered while keys are watched: the watch is that of the token before."""
BEFORE_LOGIN = LOGIN | ALWAYS - {"KEYLEASH"}
QUEUED = COMMANDS.keys() - ALWAYS - LOGIN
QUEUED |= {"UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "UNWATCH"}
"""Those that within MULTI are answered after EXEC has run the others."""
