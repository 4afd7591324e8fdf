"""`python -m kiln`: the command, for a program that starts it by its interpreter."""

from kiln.tasks import main

main()
