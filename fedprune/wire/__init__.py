"""Messages between agents and the aggregator, transfer, and the link that carries them. No tensor is known here."""
