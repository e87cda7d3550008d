"""The broker as busworker sees it: names (`topology`), URLs (`connection`), and one `session` for every transport."""
