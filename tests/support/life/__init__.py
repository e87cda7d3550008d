"""A model of a message's life: random steps against the real consumer and engine, judged by a table of what may be."""
