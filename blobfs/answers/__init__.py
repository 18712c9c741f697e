"""What the process that holds a mount answers to questions about single files, over its local socket."""
