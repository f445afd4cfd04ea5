"""`python -m niwfctl`, which is also what `accelerate launch -m` starts."""

from niwfctl.cli.main import main

main()
