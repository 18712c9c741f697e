"""What the process that holds a mount answers over its local socket: of the mount, its files and its devices."""
