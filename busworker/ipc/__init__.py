"""The only place where the kinds of processes meet: frames on links, the scoreboard, the control socket."""
