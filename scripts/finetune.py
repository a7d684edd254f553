"""`amd-hf finetune` as a file, for launchers that take one: the same options, the same outcome."""

from amd_hf.cli import start


if __name__ == "__main__":
    start("finetune", script=__file__)
