"""`python -m vqathinker_jax.cli`."""

from vqathinker_jax.cli.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
