"""What a stage would do, before it is started: its data, its batch, what a process holds, how long it takes."""
