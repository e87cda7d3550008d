"""`busworker demo`: the story of a sign-up, told by real services, with every event accounted for at the end."""
