"""Who is who in a federation: the gateway's own authority, join tokens, and a broker that tells devices apart."""
