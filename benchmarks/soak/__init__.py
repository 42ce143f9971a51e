"""Months in minutes: agents of all kinds, clients that vanish, restarts and kills, and a count of what is left over."""
