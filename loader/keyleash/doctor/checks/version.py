"""Whether the server's version has known flaws that its clients can use."""

from __future__ import annotations

from collections.abc import Iterator

from redis.exceptions import ResponseError

from keyleash.doctor.advisories import advisories, parse_version, shown
from keyleash.doctor.finding import Finding, Said, Severity, Skipped
from keyleash.doctor.patient import Server
from keyleash.protocol.active import Client
from keyleash.protocol.supported import release_of

CODE = "vulnerable-version"


def check_version(server: Server) -> Iterator[Said]:
    """Compare the release with the first ones that have the fixes."""
    product, text = release_of(server.client.info("server"))
    version = parse_version(text)
    if version is None:
        yield Skipped("version", f"`{text}` is no release of {product}", server.name)
        return
    concerning = [
        one
        for one in advisories()
        if one.concerns(product, version) and _is_on(server.client, one.setting)
    ]
    if not concerning:
        return
    target = max(one.upgrade(product, version) for one in concerning)
    names = ", ".join(one.name for one in concerning)
    yield Finding(
        CODE,
        Severity.ERROR,
        f"{product.capitalize()} {text} has known flaws that agents, or anybody who may load"
        f" scripts, can use: {names}; the worst: {concerning[0].what}",
        f"upgrade to {product.capitalize()} {shown(target)} or later; if the changelog of your"
        f" distribution's package names the fixes, accept it: `--accept {CODE}`",
        server.name,
    )


def _is_on(client: Client, setting: str) -> bool:
    """Return whether *setting* is not 0; also if there is none, or it cannot be read."""
    if not setting:
        return True
    try:
        value = str(client.config_get(setting).get(setting, "0"))
    except ResponseError:
        return True
    return value.rstrip("%") != "0"
