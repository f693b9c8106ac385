"""`python -m manyshot`, for torchrun and accelerate launch."""

from manyshot.cli import main

main()
