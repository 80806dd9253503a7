"""`fedprune task check`: on the workstation, what would fail or be slow on a device.

`check` finds it, `costs` measures and draws, `devices` is the table that times are estimated from, `display` shows it.
"""
