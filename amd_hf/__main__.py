"""`python -m amd_hf` is the command `amd-hf`."""

from .cli import main


if __name__ == "__main__":
    main()
