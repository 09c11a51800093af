"""python -m fastadv is the command fastadv."""

from fastadv.train.cli import main

raise SystemExit(main())
