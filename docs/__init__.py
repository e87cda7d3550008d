"""The pages, how they are built (`conf.py`), and what fills in the commands' output (`shown`)."""
