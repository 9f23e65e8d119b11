"""`python -m resforward` is `resforward`."""

from .cli import main

main(prog_name="resforward")
