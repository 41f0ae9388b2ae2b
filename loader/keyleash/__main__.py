"""The `keyleash` command, also as `python -m keyleash`."""

import sys

from keyleash.extras import missing_extra


def main() -> None:
    """Run the command; without the extra `cli`, exit with the error that names it."""
    try:
        from keyleash.cli import main as program  # noqa: PLC0415
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        sys.exit(f"error: {missing.message}\nhelp: {missing.help}")
    program(prog_name="keyleash")


if __name__ == "__main__":
    main()
