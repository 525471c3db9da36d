"""How: the data, fresh processes, rounds, checks of what was delivered, the noise of the machine."""
