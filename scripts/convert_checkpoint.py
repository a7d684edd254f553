"""`amd-hf convert` as a file, for launchers that take one: the same options, the same outcome."""

from amd_hf.cli.convert import run


if __name__ == "__main__":
    run()
