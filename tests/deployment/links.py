"""Links between the Markdown files of the repository."""

import re
from pathlib import Path

LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^()]*\))?)(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def slug(heading):
    """The anchor of a heading, as mdBook and GitHub make it."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[^\w\- ]", "", text.strip().lower())
    return text.replace(" ", "-")


def anchors(text):
    """All anchors of a page."""
    found = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    counts = {}
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", FENCE.sub("", text), re.MULTILINE):
        name = slug(heading)
        number = counts.get(name, 0)
        counts[name] = number + 1
        found.add(f"{name}-{number}" if number else name)
    return found


def links(text):
    """Targets of all links; what stands in code is none."""
    return LINK.findall(re.sub(r"`[^`\n]*`", "", FENCE.sub("", text)))


def faults(pages, root):
    """Links that lead nowhere."""
    found = []
    for page in pages:
        for target in links(page.read_text()):
            if re.match(r"[a-z][a-z+.-]*:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.exists():
                found.append(f"{page.relative_to(root)}: {target} is not there")
            elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
                found.append(f"{page.relative_to(root)}: {target}: no such heading")
    return found


def named(summary):
    """The pages that a SUMMARY.md names."""
    return [(Path(summary).parent / link).resolve() for link in links(Path(summary).read_text())]
