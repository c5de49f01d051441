"""`python -m prefdata` is the `prefdata` command."""

from prefdata.cli import main

main()
