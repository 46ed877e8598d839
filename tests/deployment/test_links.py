"""Links of the documentation, and that the book has all pages."""

import re
import tempfile
import unittest
from pathlib import Path

from common import DEPLOY, ROOT, files, run
from links import anchors, faults, named

DOCS = ROOT / "docs"


def pages():
    """All Markdown files."""
    return [path for path in files() if path.suffix == ".md"]


class Links(unittest.TestCase):
    maxDiff = None

    def test_all_lead_somewhere(self):
        self.assertGreater(len(pages()), 30)
        self.assertEqual(faults(pages(), ROOT), [])

    def test_the_book_has_every_page(self):
        book = named(DOCS / "SUMMARY.md")
        self.assertEqual(len(book), len(set(book)))
        expected = {page for page in pages() if DOCS in page.parents} - {DOCS / "SUMMARY.md"}
        self.assertEqual({str(page) for page in book}, {str(page) for page in expected})

    def test_the_book_builds(self):
        with tempfile.TemporaryDirectory() as folder:
            code, output = run("mdbook", "build", DOCS, "--dest-dir", folder)
            self.assertEqual(code, 0, output)
            self.assertNotRegex(output, "(?i)warn|error")
            for page in named(DOCS / "SUMMARY.md"):
                html = page.relative_to(DOCS).with_suffix(".html")
                # A README is the index of its folder.
                html = html.with_name("index.html") if html.stem == "README" else html
                self.assertTrue((Path(folder) / html).exists(), html)

    def test_pages_that_deploy_files_name_are_there(self):
        for path in files(DEPLOY):
            for name in re.findall(r"\bdocs/[\w/.-]+\.md\b", path.read_text()):
                self.assertTrue((ROOT / name).exists(), f"{path.relative_to(ROOT)}: {name}")

    def test_broken_links_are_found(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "a.md").write_text("# A `b` and [c](b.md)\n[x](b.md#two-words) [y](https://e.org) `[no](n.md)`\n```\n[no](n.md)\n```\n")
            (folder / "b.md").write_text("# B\n## Two words\n## Two words\n")
            self.assertEqual(faults([folder / "a.md"], folder), [])
            self.assertEqual(anchors((folder / "b.md").read_text()), {"b", "two-words", "two-words-1"})
            self.assertEqual(anchors((folder / "a.md").read_text()), {"a-b-and-c"})
            (folder / "c.md").write_text("[a](d.md) [b](b.md#three) [c](#nothing) [d](../x/y.md)\n")
            self.assertEqual(len(faults([folder / "c.md"], folder)), 4)


if __name__ == "__main__":
    unittest.main()
