"""`python -m penstock`: the command line without its script."""

from penstock.cli.main import main

raise SystemExit(main())
