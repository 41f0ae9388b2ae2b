"""Attacks on the gateway itself."""

from __future__ import annotations

import random
from functools import partial

import pytest

from proofs.redteam.attempt import Outcome, attempt
from proofs.redteam.behind_gateway import SCRIPT, GatewayStage
from proofs.redteam.stage import BOUND, CLERK, OPERATOR, OTHER, OTHER_SECRET, OWN, WORKER
from support.gateways import request

entered = partial(attempt, "The gateway itself", by_guard=True)
ACL, GUARD, NOTHING = Outcome.ACL, Outcome.GUARD, Outcome.NOTHING
ABOUT_CLIENTS = [
    ("LIST",), ("KILL", "TYPE", "normal"), ("PAUSE", "10000"), ("UNBLOCK", "1"), ("REPLY", "OFF"),
    ("REPLY", "SKIP"), ("TRACKING", "ON", "BCAST"), ("CACHING", "YES"), ("INFO",), ("GETREDIR",),
    ("TRACKINGINFO",), ("NO-TOUCH", "ON"), ("NO-EVICT", "ON"), ("SETNAME", "forged"),
    ("SETINFO", "LIB-NAME", "forged"), ("SETNAME", "a", "b"), ("ID",), ("GETNAME",),
]  # fmt: skip
MOST_CONNECTIONS = 530
"""More than a gateway has for watches and subscriptions."""


@entered(gateway=ACL)
def connect_to_the_server(stage: GatewayStage) -> bool:
    """connect to the server itself, from a network namespace that reaches only the gateway"""
    if stage.place.why_outside:
        pytest.skip(f"no network namespace: {stage.place.why_outside}")
    if stage.reached():
        return True
    stage.intruder.note(b"-NOAUTH no connection\r\n")
    return False


@entered(gateway=NOTHING)
def broken_frames(stage: GatewayStage) -> bool:
    """hide a request in another: wrong lengths, nested and inline requests, HTTP"""
    inner = request(("GET", OTHER))
    heads = (b"*2\r\n$3\r\nGET\r\n", b"*3\r\n$3\r\nSET\r\n$6\r\njobs:1\r\n")
    for text in (
        b"GET books:1\r\n", b"GET / HTTP/1.1\r\nHost: books:1\r\n\r\n", b"*-1\r\n",
        b"$3\r\nGET\r\n",
        b"*+2\r\n", b"* 2\r\n", b"*2_0\r\n", b"*99999999999\r\n", b"*1\r\n$-1\r\n", b"~2\r\n",
        b">2\r\n", b"%1\r\n", b"|1\r\n", b"*1\r\n" + inner, b"*2\n$3\nGET\n$7\nbooks:1\n",
        heads[0] + b"$7\r\nbooks:12\r\n", heads[0] + b"$6\r\nbooks:1\r\n", heads[0] + b":1\r\n",
        heads[0] + b"$0x7\r\nbooks:1\r\n", heads[0] + b"+books:1\r\n", heads[1] + inner,
        heads[1] + b"*1\r\n" + inner, b"\0" * 64, b"\r\n" * 40 + b"x",
    ):  # fmt: skip
        raw = stage.intruder.raw()
        raw.socket.sendall(text + inner + request(("QUIT",)))
        # QUIT ends what is not closed, with a reply that is no outcome.
        replies = [*iter(raw.reply, b"")]
        for reply in replies[:-1] if replies[-1:] == [b"+OK\r\n"] else replies:
            stage.intruder.note(reply)
    return False


@entered(gateway=NOTHING)
def requests_in_values(stage: GatewayStage) -> bool:
    """send a request inside of a value, in pieces of any size"""
    inner = b"x\r\n" + request(("SET", OTHER, "forged")) * 3
    whole = request(("SET", OWN, inner)) + request(("GET", OWN))
    dice = random.Random(1)
    for number in range(30):
        raw = stage.intruder.raw()
        cuts = sorted(dice.sample(range(len(whole)), 12)) if number else range(len(whole))
        for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            raw.socket.sendall(whole[start:stop])
        got = [raw.reply(), raw.reply(), raw.call("STRLEN", OWN)]
        if got != [b"+OK\r\n", b"$%d\r\n%b\r\n" % (len(inner), inner), b":%d\r\n" % len(inner)]:
            return True
    return False


@entered(gateway=NOTHING)
def replies_of_others(stage: GatewayStage) -> bool:
    """get a reply that is for another connection, or have another get one's own"""
    dice, clerk = random.Random(2), stage.connection_of(CLERK)
    for number in range(60):
        mine, leaving = stage.intruder.raw(), stage.intruder.raw()
        values = [f"{number}-{item}" for item in range(20)]
        clerk.send(*[words for value in values for words in (("SET", "books:2", value),
                                                             ("GET", "books:2"))])  # fmt: skip
        leaving.send(*[("GET", OWN)] * 20, ("BLPOP", "jobs:none", "0"))
        mine.send(*[("ECHO", f"mine-{item}") for item in range(20)])
        if dice.random() < 0.5:
            leaving.reply()
        leaving.close()
        theirs = [clerk.reply() for _ in range(40)][1::2]
        own = [mine.reply() for _ in range(20)]
        if theirs != [b"$%d\r\n%b\r\n" % (len(value), value.encode()) for value in values]:
            return True
        if any(b"mine-%d\r\n" % item not in reply for item, reply in enumerate(own)):
            return True
    # What the clerk has written.
    stage.given("PING")
    return False


@entered(gateway=NOTHING)
def second_token(stage: GatewayStage) -> bool:
    """log in again on a connection: in a pipeline, in MULTI, and with a watch"""
    bound, intruder = stage.tokens[BOUND], stage.intruder
    change = ("SET", OWN, "changed")
    # What comes after the narrower token is judged by it; what comes before is not.
    replies = intruder.pipeline(("GET", OWN), ("AUTH", bound), change, ("GET", "runs:7:a"))
    if not (replies[0][:1] == b"$" and replies[2].startswith(b"-LEASH")):
        return True
    intruder.pipeline(("MULTI",), change, ("AUTH", bound), ("EXEC",))
    intruder.pipeline(("MULTI",), ("AUTH", stage.tokens[CLERK]), ("GET", OTHER), ("EXEC",))
    intruder.pipeline(("WATCH", OWN), ("AUTH", CLERK, bound), ("GET", OTHER), ("UNWATCH",))
    for user, token in ((CLERK, bound), (OPERATOR, bound), (WORKER, stage.tokens[CLERK]),
                        ("default", ""), ("", "kl_clerk_" + "x" * 32), ("w\r\norker", bound),
                        ("", bound + "\r\n"), ("", "kl_clerk_" + bound)):  # fmt: skip
        intruder.pipeline(("AUTH", user, token), ("GET", OTHER))
        intruder.pipeline(("HELLO", "3", "AUTH", user, token), ("GET", OTHER))
    return stage.value(OWN) == b"changed" or not stage.keeps_tokens()


@entered(gateway=NOTHING)
def protocol_in_between(stage: GatewayStage) -> bool:
    """change the protocol, or reset, in a pipeline, in MULTI, and with a watch"""
    pipeline, hello = stage.intruder.pipeline, ("HELLO", "3")
    get = pipeline(("GET", OWN), hello, ("GET", "jobs:none"), ("HELLO", "2"), ("GET", "jobs:none"))
    queued = pipeline(("MULTI",), hello, ("GET", OTHER), ("EXEC",), ("GET", "jobs:none"))
    raw = stage.intruder.raw()
    raw.send(("WATCH", OWN), ("MULTI",), ("SET", OWN, "changed"))
    begun = [raw.reply() for _ in range(3)]
    raw.send(("RESET",), ("EXEC",), ("GET", OWN))
    after = [raw.reply() for _ in range(3)]
    raw.send(("AUTH", stage.tokens[WORKER]), ("EXEC",), ("GET", OWN))
    again = [raw.reply() for _ in range(3)]
    return (
        [get[2], get[4], queued[-1]] != [b"_\r\n", b"$-1\r\n", b"$-1\r\n"]
        or [*begun, after[0]] != [b"+OK\r\n", b"+OK\r\n", b"+QUEUED\r\n", b"+RESET\r\n"]
        or not all(reply.startswith(b"-NOAUTH") for reply in after[1:])
        or (again[0], again[1][:4]) != (b"+OK\r\n", b"-ERR")
        or stage.value(OWN) == b"changed"
    )


@entered(gateway=NOTHING)
def another_database(stage: GatewayStage) -> bool:
    """select another database: alone, in MULTI, with a watch, and with an id"""
    pipeline = stage.intruder.pipeline
    for select in (("SELECT", "1"), ("SELECT", "00"), ("SELECT", "-1"), ("SELECT", "0", "1"),
                   ("select\t1",), ("MOVE", OWN, "1"), ("COPY", OWN, "jobs:x", "DB", "1"),
                   ("HELLO", "2", "SELECT", "1"), ("SWAPDB", "0", "1")):  # fmt: skip
        pipeline(select, ("SET", "jobs:moved", "x"))
        pipeline(("MULTI",), select, ("SET", "jobs:moved", "x"), ("EXEC",))
        pipeline(("WATCH", OWN), select, ("UNWATCH",))
        pipeline(("KEYLEASH", "ONCE", "a", *select), ("GET", OWN))
    return stage.operator.info("keyspace").keys() > {"db0"} or bool(stage.changed_upstream())


@entered(gateway=NOTHING)
def connections_to_the_server(stage: GatewayStage) -> bool:
    """read, change or end the gateway's own connections to the server by CLIENT, in any state"""
    pipeline = stage.intruder.pipeline
    for name, *words in ABOUT_CLIENTS:
        joined = [(f"CLIENT{blank}{name}", *words) for blank in (" ", "\t", "\x1c", "\n ")]
        for command in (("CLIENT", name, *words), *joined):
            for before, after in (((), ()), ((("WATCH", OWN),), (("UNWATCH",),)),
                                  ((("MULTI",),), (("EXEC",),))):  # fmt: skip
                pipeline(*before, command, *after)
            pipeline(("KEYLEASH", "ONCE", "a", *command))
    text = b"\n".join(stage.intruder.replies)
    shown = (f"user={OPERATOR}", "keyleash-gateway", f":{stage.server_port}", "laddr=")
    return any(item.encode() in text for item in shown) or bool(stage.changed_upstream())


@entered(gateway=NOTHING)
def listen_to_others(stage: GatewayStage) -> bool:
    """hear of keys, commands or messages of others: MONITOR, SUBSCRIBE in any state"""
    stage.operator.config_set("notify-keyspace-events", "KEA")
    channels = (
        "*",
        "keyleash:*",
        "__keyspace@0__:books:1",
        "__keyevent@0__:set",
        "__redis__:invalidate",
    )
    raws = []
    try:
        for protocol, name, channel in [
            (protocol, name, channel)
            for protocol in ("2", "3")
            for name in ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE\t", "MONITOR", "SYNC")
            for channel in channels
        ]:
            command = (name, channel)
            raw = stage.intruder.raw()
            raws.append(raw)
            commands = [("HELLO", protocol), command, ("KEYLEASH", "ONCE", "a", *command),
                        ("WATCH", OWN), command, ("UNWATCH",), ("MULTI",), command,
                        ("EXEC",)]  # fmt: skip
            raw.send(*commands)
            for words in commands:
                stage.intruder.note(raw.reply(), words)
        stage.operator.set(OTHER, OTHER_SECRET)
        stage.operator.publish("keyleash:x", OTHER_SECRET)
        for raw in raws:
            stage.intruder.note(raw.call("EXISTS", "jobs:none"))
    finally:
        stage.operator.config_set("notify-keyspace-events", "")
    return False


@entered(gateway=NOTHING)
def operate_the_server(stage: GatewayStage) -> bool:
    """stop, slow or change the server: DEBUG, WAIT, SHUTDOWN, SCRIPT FLUSH, FUNCTION, FAILOVER"""
    for command in (("DEBUG", "SLEEP", "0"), ("DEBUG", "JMAP"), ("WAIT", "1", "0"), ("SHUTDOWN",),
                    ("WAITAOF", "1", "0", "0"), ("SCRIPT", "FLUSH"), ("SCRIPT", "KILL"),
                    ("FUNCTION", "FLUSH"), ("FCALL", "f", "0"), ("FAILOVER",), ("BGREWRITEAOF",),
                    ("REPLICAOF", "127.0.0.1", "1"), ("CLUSTER", "MEET", "127.0.0.1", "1"),
                    ("ASKING",), ("READONLY",), ("PSYNC", "?", "-1"), ("ACL", "SETUSER", "x"),
                    ("KEYLEASH", "x"), ("KEYLEASH",), ("LATENCY", "RESET")):  # fmt: skip
        stage.intruder.pipeline(command)
        stage.intruder.pipeline(("MULTI",), command, ("EXEC",))
        stage.intruder.pipeline(("WATCH", OWN), command)
    # Nothing that waits or sleeps holds the connection that agents share.
    answer = stage.connection_of(CLERK).call("GET", OTHER)
    stage.given("PING")
    return answer[:1] != b"$"


@entered(gateway=NOTHING)
def forged_source(stage: GatewayStage) -> bool:
    """forge the address in events by the name of a connection, or name it after another"""
    names = ("10.0.0.1:5\nid", "a\r\nb", "gw-1", "\n", "x" * 9000, f"id\n{OTHER}", "\xff\0")
    for name in names:
        for login in (("CLIENT", "SETNAME", name), ("HELLO", "2", "SETNAME", name)):
            stage.intruder.pipeline(login, ("SET", OWN, "x"), ("GET", OTHER))
    entries = [*stage.operations.audit.events(WORKER), *stage.operations.audit.denials(WORKER)]
    sources = {entry.source.rpartition(":")[0] for entry in entries}
    lengths = {len(entry.correlation) for entry in entries}
    return len(sources) != 1 or not sources <= stage.own_addresses() or max(lengths) > 256


@entered(gateway=NOTHING)
def secrets_in_names(stage: GatewayStage) -> bool:
    """have a token recorded: as a name, an id, a key, a channel, or a command"""
    token, pipeline = stage.tokens[BOUND], stage.intruder.pipeline
    for command in (("CLIENT", "SETNAME", token), ("HELLO", "2", "SETNAME", f"x{token}"),
                    ("KEYLEASH", "ONCE", token, "SET", OWN, "x"), (token,), (token, OWN),
                    ("AUTH", token, token), ("SUBSCRIBE", token), ("EVALSHA", token, "0"),
                    ("KEYLEASH", token), ("HELLO", token), ("CLIENT", token)):  # fmt: skip
        pipeline(command, ("GET", OTHER))
        pipeline(("MULTI",), command, ("EXEC",))
    return not stage.keeps_tokens()


@entered(gateway=NOTHING)
def ids_around_anything(stage: GatewayStage) -> bool:
    """give an id to what takes none, nest ids, or use another's id"""
    clerk = stage.connection_of(CLERK)
    assert clerk.call("KEYLEASH", "ONCE", "run-1", "GETSET", OTHER, OTHER_SECRET)[:1] == b"$"
    stage.given("PING")
    once, pipeline = ("KEYLEASH", "ONCE", "run-1"), stage.intruder.pipeline
    for command in (
        ("GETSET", OTHER, OTHER_SECRET), ("GET", OTHER), (*once, "GET", OTHER), ("MULTI",),
        ("EXEC",), ("AUTH", "x"), ("RESET",), ("QUIT",), ("HELLO", "3"), ("SUBSCRIBE", "c"),
        ("EVAL", SCRIPT, "1", OTHER), ("KEYLEASH",), ("",),
    ):  # fmt: skip
        pipeline((*once, *command), ("GET", OTHER))
    for id in ("", "x" * 201, "a\nb", "\0", "\xff", "x" * 100_000):
        pipeline(("KEYLEASH", "ONCE", id, "SET", OWN, "x"), ("GET", OTHER))
    # OTHER_SECRET is in what was sent, and in no reply.
    return any(OTHER_SECRET.encode() in reply for reply in stage.intruder.replies)


@entered(gateway=GUARD)
def script_of_another(stage: GatewayStage) -> bool:
    """call or load a script that is approved for another identity"""
    clerk = stage.connection_of(CLERK)
    digest = clerk.call("SCRIPT", "LOAD", SCRIPT).split(b"\r\n")[1].decode()
    assert clerk.call("EVALSHA", digest, "1", OTHER)[:1] == b"$"
    stage.given("PING")
    for key in (OWN, OTHER):
        for call in (("EVALSHA", digest), ("EVALSHA_RO", digest.upper()), ("EVAL", SCRIPT)):
            stage.intruder.pipeline((*call, "1", key))
            stage.intruder.pipeline(("MULTI",), (*call, "1", key), ("EXEC",))
    stage.intruder.pipeline(("SCRIPT", "LOAD", SCRIPT))
    return False


@entered(gateway=GUARD)
def misspelt_names(stage: GatewayStage) -> bool:
    """use a name that gateway, guard and server may read differently: blanks, tabs, capitals"""
    for blank in (" ", "\t", "\n", "\r\n", "\x0b", "\x1c", "\x85", "\xa0", "\0"):
        for name, *words in (
            ("GET", OTHER), ("AUTH", stage.tokens[BOUND]), ("MULTI",), ("MONITOR",),
            ("EVALSHA", "0" * 40), ("SUBSCRIBE", "*"), ("CONFIG", "GET", "*"),
        ):  # fmt: skip
            for text in (name + blank, blank + name, blank.join([name, *words]), name[0] + blank):
                stage.intruder.pipeline((text.encode("latin-1"), *words))
    for letters in (b"\xdfUBSCRIBE", b"\xdfCAN", b"\xb5ULTI", b"\xffGET", b"g\xe9t", b"%s", b"{}"):
        stage.intruder.pipeline((letters, OTHER))
    return False


@entered(gateway=GUARD)
def timing_of_logins(stage: GatewayStage) -> bool:
    """find out by replies to logins, or the server's work for them, whether a token exists"""
    made_up, work = "kl_clerk_" + "B" * 32, []
    raw = stage.intruder.raw(is_known=False)
    for token in (made_up, stage.tokens[CLERK], made_up):
        stage.operator.config_resetstat()
        stage.intruder.note(raw.call("AUTH", WORKER, token))
        stats = stage.operator.info("commandstats")
        work.append({name: item["calls"] for name, item in stats.items()})
    return not (work[0] == work[1] == work[2]) or len({*stage.intruder.replies}) > 1


@entered(gateway=NOTHING)
def all_connections(stage: GatewayStage) -> bool:
    """take from others the connections that a gateway has for watches and subscriptions"""
    raws, clerk = [], stage.connection_of(CLERK)
    for _ in range(MOST_CONNECTIONS):
        raw = stage.intruder.raw()
        raw.send(("WATCH", OWN))
        raws.append(raw)
        if raw.reply() != b"+OK\r\n":
            break
    watched = clerk.call("WATCH", OTHER)
    stage.given("PING")
    for raw in raws:
        raw.close()
    return watched != b"+OK\r\n"


@entered(gateway=NOTHING)
def abandoned_connections(stage: GatewayStage) -> bool:
    """the same by connections that go away while something runs under a watch"""
    clerk = stage.connection_of(CLERK)
    for _ in range(MOST_CONNECTIONS):
        raw = stage.intruder.raw()
        raw.send(("WATCH", OWN), ("BLPOP", "jobs:none", "0"))
        raw.reply()
        raw.close()
    watched = clerk.call("WATCH", OTHER)
    stage.given("PING")
    return watched != b"+OK\r\n"
