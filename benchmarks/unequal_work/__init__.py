"""Unequal and unlike devices: FedNova, server optimizers and local layers beside FedAvg."""
