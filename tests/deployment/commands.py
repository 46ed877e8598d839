"""What docs/cli.md says there is, and the commands that other files give."""

import re

from common import ROOT

CLI = ROOT / "docs/cli.md"


def verbs():
    """Each verb, such as `token create`: its options. Under "" what all verbs take."""
    found, verb = {"": set()}, ""
    for line in CLI.read_text().splitlines():
        heading = re.match(r"#{2,} sanafarm ([a-z ]+)$", line)
        if heading:
            verb = heading[1]
            found[verb] = set()
        # An option may have aliases, and stands in the first column.
        elif line.startswith("| "):
            found[verb] |= set(re.findall(r"--[a-z][a-z-]*", line.split("|")[1]))
    return found


def variables():
    """Environment variables that the program reads."""
    texts = CLI.read_text() + (ROOT / "docs/configuration.md").read_text()
    return set(re.findall(r"\bSANAFARM_[A-Z_]+", texts))


def commands(text):
    """Command lines of the program in a text: what follows its name, as words."""
    text = re.sub(r"\\\n\s*", " ", text)
    for found in re.finditer(r"(?:^|(?<=[\s\"'`(]))(?:[~/\w.-]*/)?sanafarm ([a-z]+(?: [^\n`|;>#()]*)?)", text):
        # A quoted question of SQL has no options in it.
        yield re.sub(r"\"[^\"]*\"|'[^']*'", "Q", found[1]).split()


def faults(text, known, sure=True):
    """Verbs and options that there are not. Not `sure`: the text may be talk, and an unknown verb in it is a word."""
    found = []
    for words in commands(text):
        verb = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in known), None)
        if verb is None:
            if sure:
                found.append(f"sanafarm {' '.join(words)}: no such verb")
            continue
        for word in words:
            option = re.match(r"--[a-z][a-z-]*", word)
            if option and option[0] not in known[verb] | known[""] | {"--help", "--version"}:
                found.append(f"sanafarm {verb}: no option {option[0]}")
    return found
