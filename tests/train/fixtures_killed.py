"""A training that is killed in the middle, in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emova_train.core.trainer import ExactTrainer


def killed_at(step: int, train: Callable[[], object]) -> None:
    """Run ``train``, which dies when it logs ``step``."""

    class Killed(Exception):
        pass

    def kill(self, logs, start_time=None):
        original(self, logs, start_time)
        if self.state.global_step == step:
            raise Killed

    original = ExactTrainer.log
    with pytest.MonkeyPatch.context() as planted, pytest.raises(Killed):
        planted.setattr(ExactTrainer, "log", kill)
        train()
