"""The `vqathinker` command. Thin: it reads options, calls the library and prints.

Results go to stdout, everything else to stderr. Exit codes: 0 all well, 1 some inputs failed,
2 wrong usage. JAX is imported only by the commands that need it, once their options are right.

A command is a module with `add(commands)`, which declares its options, and `run(args)`.
"""

from vqathinker_jax.cli.command_line import main

__all__ = ["main"]
