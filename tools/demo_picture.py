"""Draw scenes of `keyleash demo` as docs/images/demo.svg.

python -m tools.demo_picture docs/images/demo.svg
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

SCENES = (2, 3, 5, 7, 10)
WIDTH = 82


def scenes_of(output: str) -> list[str]:
    """Return the chosen scenes, in their order."""
    scenes = re.split(r"\n\n(?=[ \d]\d  )", output)
    return [scene for scene in scenes if scene[:2].strip() in map(str, SCENES)]


def draw(output: str, file: Path) -> None:
    """Write the picture of a terminal that shows the scenes."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text("$ keyleash demo", style="bold"))
    for scene in scenes_of(output):
        text = Text(f"\n{scene.rstrip()}")
        text.highlight_regex(r"(?m)^[ \d]\d  .*$", "bold")
        text.highlight_regex(r"\b[A-Z]+(_[A-Z]+)+\b.*?(?=  )", "red")
        text.highlight_regex(r"ok$|(?m:ok$)", "green")
        console.print(text)
    console.save_svg(str(file), title="keyleash demo")


if __name__ == "__main__":
    done = subprocess.run(
        [sys.executable, "-m", "keyleash", "demo"], check=True, capture_output=True, text=True
    )
    draw(done.stdout, Path(sys.argv[1]))
