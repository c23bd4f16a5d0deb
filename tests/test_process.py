"""The process around a server."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

HEAPS = """
import ctypes, re, tempfile, threading
from emova.core.process import few_heaps
if {few}:
    assert few_heaps()
hold = threading.Event()

def work():
    blocks = [bytearray(1000) for _ in range(50)]
    hold.wait()

for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
libc, file = ctypes.CDLL(None), tempfile.NamedTemporaryFile()
libc.fopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
libc.malloc_info(0, stream)
libc.fclose(stream)
print(len(re.findall("<heap", file.read().decode())))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_threads_share_heaps() -> None:
    def heaps(few: bool) -> int:
        code = HEAPS.format(few=few)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert heaps(few=True) == 1 < heaps(few=False)
