"""The doctor: checks of a device or a gateway, each a thin probe and a small judgement, which say how to mend."""
