"""A service under random faults, the history of what its handlers did, and a checker that accounts for all of it."""
