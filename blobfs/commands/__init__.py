"""What each command of the command line does, between its arguments and the rooms that do the work."""
