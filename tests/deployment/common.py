"""What the checks share."""

import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = Path(os.environ.get("DEPLOY_TOOLS", ROOT / "target/deploy-tools"))


def run(*command, **options):
    """Runs a program; its output and its exit code."""
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    return done.returncode, done.stdout


def load(path):
    """A YAML file."""
    return yaml.safe_load(Path(path).read_text())


def files(under=ROOT):
    """Everything below a folder that git has or would take."""
    code, listed = run("git", "-C", under, "ls-files", "--cached", "--others", "--exclude-standard")
    assert code == 0, listed
    return sorted({under / name for name in listed.splitlines() if (under / name).is_file()})


def shell_scripts():
    """Everything in the repository that a shell runs."""
    for path in files():
        with path.open("rb") as file:
            first = file.readline(64)
        if first.startswith((b"#!/usr/bin/env bash", b"#!/bin/bash", b"#!/bin/sh", b"#!/usr/bin/env sh")):
            yield path
