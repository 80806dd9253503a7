"""`fedprune demo`: a whole federation on one machine, each part a process of its own, as a user would run it."""
