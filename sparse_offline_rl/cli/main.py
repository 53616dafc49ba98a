"""``sparse-offline-rl COMMAND …``: all commands behind one name; only the chosen one is imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sparse_offline_rl.cli.errors import closest, user_errors
from sparse_offline_rl.cli.interrupt import leave_at_once
from sparse_offline_rl.cli.streams import output_was_lost, steady_output
from sparse_offline_rl.errors import UserError

COMMANDS = {
    "train": "prune an agent, train it, and leave a run folder; or sweep over many",
    "evaluate": "play episodes with a trained policy",
    "compress": "make the policy of a finished run a few times smaller",
    "export": "write a trained policy as ONNX, C99, or dense tensors",
    "report": "make figures and tables from run folders",
    "status": "say which runs are done, running, failed or missing, and how long the rest takes",
    "generate-dataset": "make a dataset with a bundled policy, a policy file, or at random",
    "train-expert": "train the policies that generate datasets (extra [experts])",
}
_COMPLETION = ("-sc", "--shell-completion")


def main() -> None:
    """Entry point of ``sparse-offline-rl``."""
    leave_at_once()
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with steady_output(), user_errors():
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_help(program))
        elif arguments[0] == "--version":
            from importlib.metadata import version

            print(f"{program} {version('sparse-offline-rl')}")
        elif arguments[0] in _COMPLETION:
            _complete(program, arguments)
        elif arguments[0] in COMMANDS:
            # Hydra's shell completion is installed for the program, all else calls it by both words.
            alone = any(flag in arguments for flag in _COMPLETION)
            sys.argv = [program if alone else f"{program} {arguments[0]}", *arguments[1:]]
        else:
            hint = closest(arguments[0], COMMANDS)
            raise UserError(f"{program} {arguments[0]}: there is no such command; {hint}.")
    if arguments and arguments[0] in COMMANDS:
        run_command(arguments[0])


def run_command(name: str) -> None:
    """Import and do one of :data:`COMMANDS` with the arguments in ``sys.argv``; what the scripts call."""

    def command() -> None:
        importlib.import_module(f"sparse_offline_rl.cli.{name.replace('-', '_')}").main()

    # A run is on the disk, but of another command the output may be all there is.
    run_main(command, needs_output=name != "train")


def run_main(main: Callable[[], None], needs_output: bool = True) -> None:
    """End the process as every command ends, once ``main`` is done; with status 2, too, if output that it needs was lost."""
    leave_at_once()
    with steady_output():
        status: str | int | None = None
        try:
            main()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
        if not status and needs_output and output_was_lost():
            status = 2
        sys.exit(status)


def _help(program: str) -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    purpose = "Prune offline-RL agents, before training most of all, and make the sparsity pay."
    return "\n".join([purpose, "", *lines, "", f"What a command takes: {program} COMMAND --help"])


def _complete(program: str, arguments: Sequence[str]) -> None:
    """Shell completion: bash runs ``program -sc query=bash`` with the line so far in ``COMP_LINE``.

    Answers with the names of the commands, or, behind ``train``, with what Hydra knows of its keys.
    """
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    asked = any(argument.startswith("query=") for argument in arguments)
    if asked and (len(words) < 2 or (len(words) == 2 and not line.endswith(" "))):
        print(" ".join(COMMANDS))
    elif not asked or words[1] == "train":
        os.environ["COMP_LINE"] = line.replace(" train", "", 1)
        sys.argv = [program, *arguments]
        run_command("train")
