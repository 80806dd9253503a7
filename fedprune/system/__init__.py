"""The operating system as fedprune uses it: disk, processes, memory."""
