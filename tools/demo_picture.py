"""Draw scenes of `keyleash demo` as docs/images/demo.svg, unless it shows them already.

python -m tools.demo_picture docs/images/demo.svg
"""

from __future__ import annotations

import html
import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

SCENES = (2, 3, 5, 7, 10)
COMMAND = "$ keyleash demo"
WIDTH = 82


def scenes_of(output: str) -> list[str]:
    """Return the chosen scenes, in their order."""
    scenes = re.findall(r"^[ \d]\d  .+(?:\n.+)*", output, re.MULTILINE)
    return [scene for scene in scenes if int(scene[:2]) in SCENES]


def drawing(output: str) -> str:
    """Return the picture of a terminal that shows the scenes, as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text(COMMAND, style="bold"))
    for scene in scenes_of(output):
        text = Text(f"\n{scene.rstrip()}")
        text.highlight_regex(r"(?m)^[ \d]\d  .*$", "bold")
        text.highlight_regex(r"\b[A-Z]+(_[A-Z]+)+\b.*?(?=  )", "red")
        text.highlight_regex(r"ok$|(?m:ok$)", "green")
        console.print(text)
    # The picture ends within the last line, whose underscores would be cut off.
    console.print()
    svg = console.export_svg(title="keyleash demo")
    # No font from another host.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def shown_lines(svg: str) -> list[str]:
    """Return the lines of a picture, without the numbers that differ in each run."""
    rows: dict[float, str] = {}
    for y, text in re.findall(r'<text [^>]* y="([0-9.]+)"[^>]*clip-path[^>]*>(.*?)</text>', svg):
        rows[float(y)] = f"{rows.get(float(y), '')} {html.unescape(text)}"
    return _shapes("\n".join(rows[y] for y in sorted(rows)))


def printed_lines(output: str) -> list[str]:
    """Return the lines that a picture of *output* shows, without such numbers."""
    return _shapes("\n".join([COMMAND, *scenes_of(output)]))


def _shapes(text: str) -> list[str]:
    text = re.sub(r"(?<=token\s|evoke\s)[a-z0-9]{12}\b", "ID", text)
    lines = (" ".join(re.sub(r"\d+", "0", line).split()) for line in text.splitlines())
    return [line for line in lines if line]


if __name__ == "__main__":
    file = Path(sys.argv[1])
    done = subprocess.run(
        [sys.executable, "-m", "keyleash", "demo"], check=True, capture_output=True, text=True
    )
    if shown_lines(file.read_text("utf-8")) != printed_lines(done.stdout):
        file.write_text(drawing(done.stdout), "utf-8")
