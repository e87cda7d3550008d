"""The only place where the three process kinds meet: frames on links, the scoreboard, the control socket."""
