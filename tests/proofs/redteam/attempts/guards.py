"""Guards, called otherwise than the wrapper does."""

from __future__ import annotations

from functools import partial
from typing import Any

from keyleash.store.token import token_digest
from proofs.redteam.attempt import Outcome, attempt
from proofs.redteam.stage import BOUND, CLERK, NAMES, NOBODYS, OTHER, OWN, WORKER, Stage

entered = partial(attempt, "Guards and tokens", by_guard=True)
GUARD, NOTHING = Outcome.GUARD, Outcome.NOTHING
guarded = partial(entered, direct=GUARD)


@entered(direct=GUARD)
def others_guard(stage: Stage) -> None:
    """call the guard of another identity with its own token"""
    digest = stage.digest(CLERK)
    stage.intruder.call("GET", OTHER, digest=digest)
    stage.intruder.call("SET", OTHER, "changed", digest=digest)


@guarded()
def others_token(stage: Stage) -> None:
    """call its own guard with the token of another identity"""
    stage.intruder.call("GET", OTHER, token=stage.tokens[CLERK])
    stage.intruder.call("GET", OWN, token=stage.tokens[CLERK])


@guarded()
def another_run(stage: Stage) -> None:
    """read, write or delete what its token is not bound to, alone and in a batch"""
    token = stage.tokens[BOUND]
    for key in ("runs:8:a", OWN, "runs:77:a", "runs:7", "runs::a", OTHER):
        stage.intruder.call("GET", key, token=token)
        stage.intruder.call("SET", key, "changed", token=token)
    stage.intruder.call("DEL", "runs:7:a", token=token)
    stage.intruder.call("COPY", "runs:7:a", OWN, keys=["runs:7:a", OWN], token=token)
    stage.intruder.call("MSET", "runs:7:a", "x", OWN, "x", keys=["runs:7:a", OWN], token=token)
    stage.intruder.call("SORT", "runs:7:a", "BY", "nosort", "GET", "jobs:*", token=token)


@guarded()
def wider_child(stage: Stage) -> None:
    """make a child token that may do more than its token, outlives it, or has the digest of one"""
    delegate = partial(stage.intruder.delegate, token=stage.tokens[BOUND])
    for words in (("bind", "run=8"), ("bind", "run=7:8"), ("bind", "run=7\0"), ("bind", "x=7"),
                  ("bind",), ("allow", "delete"), ("allow", "scan"), ("allow", ""), ("keys", OWN),
                  ("keys", "runs:*:7"), ("keys", "books:*"), ("keys", "runs:8:*"),
                  ("budget", "requests=-1"), ("budget", "requests=1e9"), ("meta", "a=" + "x" * 99),
                  ("mask", "63"), ("allow", "read\0delete")):  # fmt: skip
        delegate(*words)
    for child in ("", "x" * 40, "0" * 39, "A" * 40, token_digest(stage.tokens[WORKER])):
        delegate(child=child)
    for ttl in ("99999999", "-1", "0", "1.5", "9" * 400, "nan"):
        delegate(ttl=ttl)


@entered(direct=GUARD)
def child_of_another(stage: Stage) -> None:
    """make a child token of another identity"""
    record: Any = stage.operator.hgetall(NAMES.guard(CLERK))
    head = stage.intruder.head(record[b"batch_digest"])
    for token in (stage.tokens[WORKER], stage.tokens[BOUND]):
        stage.intruder.say(*head, 0, token, "", "delegate", "0" * 40, "")


@guarded()
def guessed_token(stage: Stage) -> None:
    """guess a token: random, empty, too long, its own with one changed letter"""
    own = stage.tokens[WORKER]
    for token in (
        "",
        "x",
        own[:-1] + ("A" if own[-1] != "A" else "B"),
        own + "A",
        own * 1000,
        "\0",
    ):
        stage.intruder.call("GET", OWN, token=token)


@guarded()
def foreign_key(stage: Stage) -> None:
    """read and write keys outside its grants, and denied keys"""
    for key in (OTHER, NOBODYS, "jobs:locked", "keyleash:policy", "", "jobs", "JOBS:1"):
        stage.intruder.call("GET", key)
        stage.intruder.call("SET", key, "changed")


@guarded()
def control_keys(stage: Stage) -> None:
    """access control keys: state, tokens, audit streams, sources"""
    for key in (NAMES.state(WORKER), NAMES.audit(WORKER), NAMES.source(WORKER), NAMES.policy,
                NAMES.guard(CLERK), NAMES.tokens(CLERK)):  # fmt: skip
        for command in (("DUMP",), ("DEL",), ("XTRIM", "MAXLEN", "0"), ("SETRANGE", "16", "x")):
            stage.intruder.call(command[0], key, *command[1:])


@guarded()
def forged_keys(stage: Stage) -> None:
    """declare other keys than those of the command, more, fewer or none"""
    for keys in ([OWN], [], [OWN, OTHER], [OTHER, OWN], [OTHER] * 40):
        stage.intruder.call("GET", OTHER, keys=keys)
        stage.intruder.call("MSET", OTHER, "x", OWN, "y", keys=keys)
        stage.intruder.call("COPY", OTHER, OWN, keys=keys)


@guarded()
def hidden_keys(stage: Stage) -> None:
    """hide a key where arguments must be read to find it"""
    call = stage.intruder.call
    call("SORT", OWN, "STORE", "jobs:x", "STORE", OTHER, keys=[OWN, "jobs:x"])
    call("XREAD", "COUNT", "STREAMS", "STREAMS", OTHER, "0", keys=[OWN])
    call("XREADGROUP", "GROUP", "STREAMS", OWN, "STREAMS", OTHER, ">", keys=[OWN])
    call("EVAL", "return redis.call('GET', KEYS[1])", "1", OTHER, keys=[OTHER])
    call("ZUNIONSTORE", "jobs:z", "1", OTHER, keys=["jobs:z"])
    call("BITFIELD", OTHER, "GET", "u8", "0", keys=[OWN])
    call("MEMORY", "USAGE", OTHER, keys=[OTHER])
    call("GEORADIUS", OWN, "0", "0", "1", "m", "STORE", OTHER, keys=[OWN])


@guarded()
def patterns_of_sort(stage: Stage) -> None:
    """read other keys through patterns of SORT, also ones that a crafted element completes"""
    elements = ("1", "books:1", "ed", "locked", "*", "->f")
    stage.given("RPUSH", "jobs:list", *elements)
    for name in ("SORT", "SORT_RO"):
        for pattern in ("books:*", "*", "jobs*", "jobs:*", "jobs:lock*", "b*:1", "ledge*", "*->f",
                        "keyleash:*", "books:\0*", "jobs:*\0->f", "**", "*r"):  # fmt: skip
            stage.intruder.call(name, "jobs:list", "BY", pattern, "ALPHA")
            stage.intruder.call(name, "jobs:list", "ALPHA", "get\0x", pattern)
    call = partial(stage.intruder.call, "SORT", "jobs:list")
    call("BY", "STORE", "STORE", OTHER, keys=["jobs:list", OTHER])
    call("GET", "books:*", "STORE", "jobs:x", keys=["jobs:list", "jobs:x"])


@guarded()
def misspelt_command(stage: Stage) -> None:
    """use a command name that guard and server may read differently"""
    for name in (
        "get",
        "GET\0",
        " GET",
        "GET ",
        "GET\r\nSET",
        "G\xc9T",
        "",
        "XINFO STREAM",
        "\xff",
        "0",
    ):
        stage.intruder.call(name.encode("latin-1"), OTHER, keys=[OTHER])


@guarded(gateway=NOTHING)
def keyless_command(stage: Stage) -> None:
    """run commands without keys, or for any key, through the guard"""
    for name in ("FLUSHALL", "KEYS", "SCAN", "CONFIG", "EVAL", "SCRIPT", "ACL", "MULTI", "CLIENT",
                 "DEBUG", "SUBSCRIBE", "PUBLISH", "MONITOR", "SWAPDB", "FUNCTION"):  # fmt: skip
        stage.intruder.call(name, "*", keys=[])


@guarded()
def misshapen_call(stage: Stage) -> None:
    """omit arguments, send too many, or send a batch with wrong lengths"""
    say, record = stage.intruder.say, stage.intruder.record
    single, batch = (stage.intruder.head(record[kind]) for kind in (b"digest", b"batch_digest"))
    token = stage.tokens[WORKER]
    say(*single, 0)
    say(*single, 0, token)
    say(*single, 0, token, "c")
    say(*single, 0, token, "c", "MGET", *["jobs:1"] * 7001)
    for tail in (("9", "GET", OTHER), ("-1", "GET", OTHER), ("x",), ("1",), ("2", "GET"), ("0",)):
        say(*batch, 0, token, "c", "all", *tail)
    say(*batch, 0, token, "c", "some", "2", "GET", OWN)
    say(*batch, 1, OTHER, token, "c", "all", "2", "GET", OTHER)


@entered(direct=NOTHING, gateway=NOTHING)
def forged_correlation(stage: Stage) -> bool:
    """forge fields of an event, or make it huge, by the correlation id"""
    stage.intruder.call("SET", OWN, "x", correlation=b"c\r\nkey books:1\0" + b"z" * 1_000_000)
    event = stage.newest_event()
    return len(event[b"correlation"]) > 256 or event[b"SET"] != OWN.encode()


@entered(direct=NOTHING, gateway=NOTHING)
def clock(stage: Stage) -> bool:
    """turn back the clock of the limits"""
    call = stage.intruder.call
    call("SET", OWN, "x")
    before = stage.state()
    call("SET", OWN, "x", "PXAT", "1")
    call("EXPIRE", OWN, "-1")
    after = stage.state()
    return after[24:32] == b"\0" * 8 or after == before


@entered(direct=NOTHING, gateway=None)
def timing(stage: Stage) -> bool:
    """find out by the server's work whether a token exists"""
    work = []
    stage.intruder.say("PING")
    for token in (stage.tokens[CLERK], "kl_worker_" + "A" * 43, "kl_clerk_" + "B" * 43):
        stage.operator.config_resetstat()
        stage.intruder.call("GET", OWN, token=token)
        stats = stage.operator.info("commandstats")
        work.append({name: item["calls"] for name, item in stats.items() if name != "cmdstat_info"})
        # Like ones of a minute are counted, the first is written out.
        stage.reset()
    stage.intruder.forget()
    stage.intruder.say("PING")
    assert work[0], work
    assert work[0] == work[1] == work[2], work
    return False
