"""``python -m tropism``: the command line, also under ``torchrun -m tropism``."""

from tropism.cli import main

main()
