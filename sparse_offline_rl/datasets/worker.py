"""A data-generating process: ``python -m sparse_offline_rl.datasets.worker``, driven through its standard streams.

A plain subprocess and not ``multiprocessing``, so that it works from scripts without a ``__main__`` guard and under any
start method. Reads a pickled :class:`Setup`, then pickled :class:`Job` s; answers with pickled messages: ``int`` (steps
taken), ``list[Episode]`` (a job's result) or ``str`` (why it failed). Ends when its input closes, so it outlives no parent.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from sparse_offline_rl.datasets.experts import StochasticPolicy
from sparse_offline_rl.datasets.rollouts import Episode, GroupRunner

Message = int | str | list[Episode]


@dataclass(frozen=True)
class Setup:
    """What all jobs of a worker share."""

    env_id: str
    policy: StochasticPolicy | None
    entropy: tuple[int, ...]  # with an episode's index: the seed of that episode


@dataclass(frozen=True)
class Job:
    """One group of episodes, of at most ``limit`` steps in all."""

    group: int
    limit: int


def main() -> None:
    """Serve until the parent closes our input or goes away."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # environments that print must not garble the answers
    # The parent has gone, or pressed ctrl-C: nobody to tell.
    with suppress(BrokenPipeError, EOFError, KeyboardInterrupt):
        try:
            _serve(sys.stdin.buffer, answers)
        except (BrokenPipeError, EOFError):
            raise
        except Exception as error:  # the user's environment may raise anything; the parent turns this into a sentence
            traceback.print_exc()
            _send(answers, f"{type(error).__name__}: {error}")


def _serve(jobs: BinaryIO, answers: BinaryIO) -> None:
    setup: Setup = pickle.load(jobs)
    runner = GroupRunner(setup.env_id, setup.policy)
    while True:
        job: Job = pickle.load(jobs)
        _send(answers, runner.run(setup.entropy, job.group, job.limit, lambda steps: _send(answers, steps)))


def _send(answers: BinaryIO, message: Message) -> None:
    pickle.dump(message, answers, protocol=pickle.HIGHEST_PROTOCOL)
    answers.flush()


if __name__ == "__main__":
    main()
