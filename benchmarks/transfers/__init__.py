"""A large model on its way to slow agents: what the gateway publishes for it, and the memory that takes."""
