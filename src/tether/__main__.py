"""`python -m tether` is `tether`."""

from tether.cli import main

main()
