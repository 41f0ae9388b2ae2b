"""The pytest plugin: `leash_server`, `leash_cluster` and `fake_leash`, with a policy per test.

Every pytest run in an environment with keyleash imports this module, also without using the
fixtures. So the fixtures themselves import what they need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any

import pytest

from keyleash.errors import KeyleashError, PolicyError
from keyleash.extras import import_with_extra, install_help, missing_extra

if TYPE_CHECKING:
    from keyleash.addons.servers import EmbeddedCluster, EmbeddedServer
    from keyleash.addons.testing.leash import BaseLeash, FakeLeash, LeashCluster, LeashServer
    from keyleash.addons.testing.process import RunServer

NAME = "leash_policy"
MARKED = "<leash_policy>"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        NAME, "path of the policy that the fixtures load, relative to rootdir", default=""
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{NAME}(policy): the policy that the fixtures load for this test: "
        "a document, or a path relative to rootdir",
    )


@pytest.fixture(scope="session")
def _leash_run_server() -> Iterator[RunServer[EmbeddedServer]]:
    # One per pytest process, so that xdist workers do not share it.
    from keyleash.addons.servers import EmbeddedServer  # noqa: PLC0415
    from keyleash.addons.testing.process import RunServer  # noqa: PLC0415

    with contextlib.closing(RunServer(EmbeddedServer())) as server:
        yield server


@pytest.fixture(scope="session")
def _leash_run_cluster() -> Iterator[RunServer[EmbeddedCluster]]:
    from keyleash.addons.servers import EmbeddedCluster  # noqa: PLC0415
    from keyleash.addons.testing.process import RunServer  # noqa: PLC0415

    with contextlib.closing(RunServer(EmbeddedCluster())) as cluster:
        yield cluster


@pytest.fixture
def leash_server(
    request: pytest.FixtureRequest, _leash_run_server: RunServer[EmbeddedServer]
) -> Iterator[LeashServer]:
    """A real server (the embedded Valkey) with only the policy, and clients of agents."""
    yield from _loaded(request, "LeashServer", lambda: [_leash_run_server.emptied()])


@pytest.fixture
def leash_cluster(
    request: pytest.FixtureRequest, _leash_run_cluster: RunServer[EmbeddedCluster]
) -> Iterator[LeashCluster]:
    """A real cluster (three primaries) with only the policy, and clients of agents."""
    yield from _loaded(request, "LeashCluster", lambda: [_leash_run_cluster.emptied()])


@pytest.fixture
def fake_leash(request: pytest.FixtureRequest) -> Iterator[FakeLeash]:
    """A fake server in this process with only the policy, and clients of agents."""
    yield from _loaded(request, "FakeLeash", list)


def _loaded(
    request: pytest.FixtureRequest, name: str, servers: Callable[[], list[Any]]
) -> Iterator[Any]:
    """Yield an object of the class *name* with the policy of a test, and close it."""
    policy = _policy(request)
    with _failing_without_traceback():
        made = getattr(import_with_extra("keyleash.addons.testing.leash"), name)
        leash = made(*servers(), request.config.rootpath)
    with contextlib.closing(leash):
        _load(request, leash, policy)
        yield leash


def _policy(request: pytest.FixtureRequest) -> str | PathLike[str]:
    """Return the policy of the closest marker, else of the configuration."""
    marker = request.node.get_closest_marker(NAME)
    if marker is not None:
        match marker.args:
            case (str() | PathLike() as policy,) if not marker.kwargs:
                return policy
        raise _failure(
            f"the marker `{NAME}` takes one argument, a path or a document",
            f'write @pytest.mark.{NAME}("policy.yaml")',
        )
    config = request.config
    path: str = config.getini(NAME)
    if path:
        return path
    is_toml = config.inipath is None or config.inipath.suffix == ".toml"
    setting = f'{NAME} = "policy.yaml"' if is_toml else f"{NAME} = policy.yaml"
    raise _failure(
        f"there is no policy for `{request.fixturename}`",
        f"write `{setting}` into pytest's configuration,\n"
        f'  or @pytest.mark.{NAME}("policy.yaml") on the test, its class or its module;\n'
        f"  paths are relative to {config.rootpath}",
    )


def _load(
    request: pytest.FixtureRequest, leash: BaseLeash[Any, Any, Any], policy: str | PathLike[str]
) -> None:
    try:
        with _failing_without_traceback():
            leash.load(policy, name=MARKED)
    except UnicodeDecodeError:
        raise _failure(f"the policy `{policy}` is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise _failure(
            f"cannot read the policy `{policy}`: {(error.strerror or str(error)).lower()}",
            f"its path is relative to {request.config.rootpath}",
        ) from None


@contextlib.contextmanager
def _failing_without_traceback() -> Iterator[None]:
    """Report an error like the command line does, without a traceback."""
    try:
        yield
    except PolicyError as error:
        raise _failure(f"{error}\n{error.message}") from None
    except KeyleashError as error:
        raise _failure(error.message, error.help) from None
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        raise _failure(missing.message, install_help("testing")) from None


def _failure(message: str, help: str | None = None) -> BaseException:
    text = message if help is None else f"{message}\n  help: {help}"
    return pytest.fail.Exception(text, pytrace=False)
