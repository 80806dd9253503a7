"""What travels between agents and the aggregator, and the link that carries it. No tensor is known here."""
