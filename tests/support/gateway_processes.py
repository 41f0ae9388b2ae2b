"""Gateways of tests as processes of their own, which a test may kill and measure."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from support.command_line import Cli

KIB = 1024


class SpawnedGateway:
    """`keyleash gateway`, which stays on its ports when it is started again.

    Attributes:
        port: The port for agents.
        admin: The port for health and metrics.
        log: What it wrote to standard error, in all runs.
    """

    def __init__(self, url: str, folder: Path, *options: str) -> None:
        self.log = folder / "gateway.log"
        self._cli, self._options = Cli(url), options
        self.port = self.admin = 0
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        words = (sys.executable, "-m", "keyleash", "--json", "gateway", *self._options)
        addresses = ("--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                (*words, *addresses),
                env=self._cli.process_env(),
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        document = b""
        while not document.endswith(b"}\n"):
            line = self.process.stdout.readline()
            assert line, self.log.read_text()
            document += line
        self.announced = json.loads(document)
        self.port, self.admin = (urlsplit(self.announced[x]).port or 0 for x in ("url", "admin"))

    def kill(self) -> None:
        """Kill it, as a crash does."""
        self.process.kill()
        self._end()

    def terminate(self) -> int:
        """Send SIGTERM, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._end()

    def _end(self) -> int:
        status = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    @property
    def resident(self) -> int:
        """The bytes of memory that it has now."""
        return self._status("VmRSS")

    @property
    def peak(self) -> int:
        """The most bytes of memory that it had since it was started, or since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak begin again."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * KIB
        raise AssertionError(f"/proc has no {name}")


@contextlib.contextmanager
def spawned_gateway(url: str, folder: Path, *options: str) -> Iterator[SpawnedGateway]:
    """Run a gateway to the server at *url*; end it afterwards."""
    gateway = SpawnedGateway(url, folder, *options)
    try:
        yield gateway
    finally:
        if gateway.process.returncode is None:
            gateway.kill()
