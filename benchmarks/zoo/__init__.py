"""The zoo: ordinary networks that nobody tuned for, and what becomes of each."""
