"""Bundles of scripts: those of libraries, which are read from the installed library.

A bundle lists where the texts are and their digests, so that another text is never approved
unseen. The texts themselves are not part of keyleash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha1
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from keyleash.errors import OperationError


@dataclass(frozen=True, slots=True)
class Bundle:
    """The scripts of a library.

    Attributes:
        version: The version of the library whose texts have these digests.
        texts: The SHA-1 of each text, by module and attribute, or by package and file.
        distribution: The name of the library at PyPI, if that of the bundle is another.
    """

    version: str
    texts: Mapping[str, Mapping[str, str]]
    distribution: str | None = None

    @property
    def digests(self) -> Mapping[str, str]:
        """The SHA-1 of each text, by its place: `module:attribute` or `package:file`."""
        return {
            f"{module}:{name}": digest
            for module, texts in self.texts.items()
            for name, digest in texts.items()
        }


BUNDLES: Mapping[str, Bundle] = {
    "celery": Bundle(
        "5.7.0",
        {
            "celery.backends.redis": {
                "CHORD_PART_RETURN_LUA": "b8fc152c83a7e634103ccebd49dcd3146a8f4366",
                "CHORD_CLEANUP_LUA": "59d7aab41242d82196947ba8926cab712416da4f",
                "CHORD_CLAIM_EXTEND_LUA": "dc87180d6bcb7f73c7275eb0fe7a70baf0a8b7c7",
            },
        },
    ),
    "docket": Bundle(
        "0.27.0",
        {
            "docket": {
                "lua/acquire_or_park.lua": "32cf9c2d4709de6865f41ad914fc19bb0c35051e",
                "lua/cancel_cleanup.lua": "de49c4966085a62e7ea7bce3fec895a02dc8cf12",
                "lua/cancel_task.lua": "579f0f02d81485dfb1f8ff7a751382774df545ae",
                "lua/claim.lua": "4c3351d03f7ec15cfb53be3da380c50bf7dc1736",
                "lua/clear.lua": "ba196f1204fddb0b317809017f5473e13524a587",
                "lua/debounce.lua": "c9d0af4a618111e029dc82972a0f31f72286290f",
                "lua/progress_write.lua": "2fa32dbdf07d6daaf02b602cd4d8edda8fa70e03",
                "lua/ratelimit.lua": "a5d1c4730295fbab89e21eb1b6038cc2b22b3724",
                "lua/refresh_lease.lua": "7259f3bd580eb3ff1db338d0f699c93c2155e46d",
                "lua/release_and_wake.lua": "5e4a60b0f70268db2d0486f1f756a1308dcd4dc7",
                "lua/scavenge_and_wake.lua": "605659f4ad887ef58308b2b5465d2f381727fc7c",
                "lua/schedule.lua": "2f6b57b8c064096b7eeaadfbf82f3c71c02cbc8a",
                "lua/stream_due_tasks.lua": "65c2d9b831348a9a9df537c5cd3e9e222abc99c3",
                "lua/terminal.lua": "bfc6d12029a9d38e38e6faa8eb61ff89d6fdeb49",
            },
        },
        distribution="pydocket",
    ),
    "dramatiq": Bundle(
        "2.2.1",
        {
            "dramatiq.brokers": {
                "redis/dispatch.lua": "fdacc359c79a5adc3b8eeb53ff5772d7c42144e3",
                "redis/maxstack.lua": "63a257ff9edcee2888529b5d51c86f83444f91e4",
            },
        },
    ),
    "huey": Bundle(
        "3.5.4",
        {
            "huey.storage": {
                "SCHEDULE_POP_LUA": "4f30a2b0c2d7759adb15efd0d270a583531c67e2",
            },
            "huey.contrib.helpers": {
                "ACQUIRE_LUA": "88e0ad130d43a138d9a49c94534e6295326e3bbc",
                "RENEW_LUA": "7fa455bebd62656de6babbbc824b8d61d51651b4",
            },
        },
    ),
    "kombu": Bundle(
        "5.7.0",
        {
            "kombu.transport.redis": {
                "REFRESH_BINDING": "ef7a9e205fbaf46bf959e1522ff796622fc676c7",
                "SWEEP_BINDINGS": "9a2b966a0a2d2d0e36ec32bc30fc89342b94a4bf",
            },
        },
    ),
    "python-redis-lock": Bundle(
        "4.0.1",
        {
            "redis_lock": {
                "UNLOCK_SCRIPT": "90da91872223f85eb1376a17e3c4df21ace8c54b",
                "EXTEND_SCRIPT": "fed16109024d968d9496e4140fe1355bac05ebff",
                "RESET_SCRIPT": "afbc8014508f92e446b56567e8ba600e811c1bd5",
                "RESET_ALL_SCRIPT": "b121d3548d693116c3851b63befe947e49f28c7c",
            },
        },
    ),
    "rq": Bundle(
        "3.0.0",
        {
            "rq.scripts": {
                "UNIQUE_ENQUEUE_SCRIPT": "5cee5213d2ee93f19f93badbfc1c8abbccde5baf",
                "UNIQUE_SCHEDULE_SCRIPT": "10808fbebdc9b5ffafa2b7f5f2ce29a5bc6a1e07",
                "ACQUIRE_OR_REFRESH_LOCK_SCRIPT": "4227fa753143e6f652e2e185d254964b3a7413a5",
                "RELEASE_LOCK_SCRIPT": "d44df6e1a0e76df1009084a91af26cc23ac035a9",
            },
            "rq.rate_limit": {
                "ACQUIRE_AND_ENQUEUE_SCRIPT": "5b83f28203fe8c5d659dad4a4d9cb09dddab19fe",
                "RELEASE_AND_ENQUEUE_SCRIPT": "a716b92c4190e42558ccd53d80fe6b942719be32",
                "RELEASE_STALE_AND_ENQUEUE_SCRIPT": "4ce96f07c3f3cca3ca58da6fbeb7d07ebf1e23d4",
                "CLEANUP_REGISTRY_SCRIPT": "cfc2f03eedca3549565274b1b2452765456ea38c",
            },
        },
    ),
}


def bundle_texts(name: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each script of a bundle; each character is a byte.

    Raises:
        OperationError (bundle): The library is not installed, or has other texts.
    """
    bundle = BUNDLES[name]
    distribution = bundle.distribution or name
    library, found = f"`{distribution}` {bundle.version}", _found(distribution)
    for place, digest in bundle.digests.items():
        try:
            text = _text(*place.split(":"))
        except (ImportError, AttributeError, OSError) as error:
            raise OperationError(
                "bundle",
                f"cannot read `{place}` of the bundle `{name}`: {error}{found}",
                help=f"install {library} where policies are checked and loaded",
            ) from None
        if sha1(text, usedforsecurity=False).hexdigest() != digest:
            raise OperationError(
                "bundle",
                f"`{place}` has another text than in {library}{found}",
                help="install that version or one with the same texts, or approve the files of the"
                " scripts by `scripts`",
            )
        yield place, text.decode("latin-1")


def _found(distribution: str) -> str:
    try:
        return f"; version {version(distribution)} is installed"
    except PackageNotFoundError:
        return ""


def _text(module: str, name: str) -> bytes:
    if name.endswith(".lua"):
        # Not imported: its folder is enough.
        spec = find_spec(module)
        folders = spec.submodule_search_locations if spec else None
        if not folders:
            raise ImportError(f"no package `{module}`")
        return (Path(folders[0]) / name).read_bytes()
    text: str | bytes = getattr(import_module(module), name)
    return text if isinstance(text, bytes) else text.encode()
