"""Write the Markdown table of a store into README.md, between its two marks."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
MARKS = re.compile(r"(<!-- made by .*? -->\n).*?(<!-- /made -->)", re.DOTALL)


def main() -> None:
    """Run `bench report` on the demo data with this script's arguments, and replace the table."""
    ask = ["bench", "report", "--table", "2", "--data", "demo", "--format", "markdown"]
    made = subprocess.run([*ask, *sys.argv[1:]], capture_output=True, text=True, check=True)
    text, count = MARKS.subn(lambda m: m[1] + made.stdout.strip() + "\n" + m[2], README.read_text())
    assert count == 1, "README.md has lost its marks"
    README.write_text(text)


if __name__ == "__main__":
    main()
