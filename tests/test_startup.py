"""The collector rests inside, and only if it ran before it runs after."""

from __future__ import annotations

import gc

import pytest

from emova.core.startup import collector_paused


@pytest.mark.parametrize("running", [True, False])
def test_the_collector_is_as_before_also_after_an_error(running: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if running else gc.disable)()
        with pytest.raises(RuntimeError), collector_paused():
            assert not gc.isenabled()
            raise RuntimeError
        assert gc.isenabled() == running
    finally:
        (gc.enable if before else gc.disable)()
