"""The embedded store: one SQLite database in a folder, shared by any number of processes of one machine.

The only place that imports apsw; it knows neither kombu nor the rest of the bus. `store.Store` is the door. Inside,
one room a duty: `location` (URL to folder), `folder` (files and modes), `users` (who uses a bus in memory), `lock`
(the writers' queue), `database` (connection and transactions), `schema`, `topology` and `routing` (where a message
goes), `transaction` (inserting), `claims`, `claimfile` (whose claims), `expiry`, `deadletter`, `wakeup`, `listing`,
`upkeep` (after the dead, and of the file's size), `space` (a full disk), `checkup` with `integrity` and `salvage`.
"""
