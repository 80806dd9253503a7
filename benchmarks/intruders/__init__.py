"""Attacks on a gateway and on those who joined it, really tried: `python -m benchmarks.intruders [--json FILE]`

A gateway is made as `fedprune gateway init` makes it, with Mosquitto, `fedprune gateway run`, and agents that have
joined, each a process of its own. Then come a device that was captured, a stranger on the network, and a broker that
was taken over. Printed is each attack, whether it was refused, and what the victim says. Exits with 1 if one was not.
"""
