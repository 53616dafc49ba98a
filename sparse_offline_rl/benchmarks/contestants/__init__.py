"""What is measured; each function runs in a process of its own (see ``..contestant``)."""
