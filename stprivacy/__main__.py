"""`python -m stprivacy` is `stprivacy`."""

from stprivacy.cli import main

main()
