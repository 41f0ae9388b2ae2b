"""The `keyleash` command, also as `python -m keyleash`."""

import sys


def main() -> None:
    """Run the command; without the extra `cli`, exit with the error that names it."""
    try:
        from keyleash.cli import main as program  # noqa: PLC0415

        program(prog_name="keyleash")
    except KeyboardInterrupt:
        # While modules are imported; later the program reports it.
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except ImportError as error:
        from keyleash.extras import missing_extra  # noqa: PLC0415

        missing = missing_extra(error)
        if missing is None:
            raise
        sys.exit(f"error: {missing.message}\nhelp: {missing.help}")


if __name__ == "__main__":
    main()
