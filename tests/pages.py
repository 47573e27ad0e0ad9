"""The README and the guides, which tests read and run."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_ROOMS = ("configs", "notebooks", "scripts", "tfllm")
_GUIDES = [path for room in _ROOMS for path in sorted((ROOT / room).rglob("README.md"))]
# Path from the root -> text.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *_GUIDES)
}


def blocks(text):
    """The fenced blocks of a page -> pairs of language and text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def lines(text):
    """The lines of a bash block, without comments."""
    found = [re.sub(r"\s+#.*$", "", line).strip() for line in text.splitlines()]
    return [line for line in found if line and not line.startswith("#")]
