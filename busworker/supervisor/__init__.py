"""The supervisor's process: forks, reaps, restarts, kills at limits, answers commands. No broker."""
