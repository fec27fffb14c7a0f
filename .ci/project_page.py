"""Owns the packages' project page: the README without what makes sense in the repository alone.

A page of a package has no folder around it. So the picture is left out, and a link to a file becomes its words with the
file's name behind them. hatchling calls this when it builds a package.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"<picture>.*?</picture>\n\n[^\n]*\n\n", re.DOTALL)
OLD_ANCHOR = re.compile(r'<a id="[^"]*"></a>\n*')
LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]*)[^)\s]*\)")
WHERE = "The files named here are in the source package, and in the repository that it was built from.\n"


class ProjectPage(MetadataHookInterface):
    """Gives the page to hatchling."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the page to the metadata."""
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": page(readme)}


def page(readme: str) -> str:
    """Return the README as it makes sense by itself."""
    parts = FENCE.split(OLD_ANCHOR.sub("", PICTURE.sub("", readme)))
    text = "".join(part if part.startswith("```") else LINK.sub(_in_words, part) for part in parts)
    return f"{text}\n{WHERE}"


def _in_words(link: re.Match[str]) -> str:
    words, path = link.groups()
    return words if not path or path in words else f"{words} (`{path}`)"
