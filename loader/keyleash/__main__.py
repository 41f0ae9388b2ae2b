"""`python -m keyleash`: the same as the `keyleash` command."""

from keyleash.cli import main

if __name__ == "__main__":
    main(prog_name="keyleash")
