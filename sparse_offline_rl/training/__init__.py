"""What runs a training: loop, session, checkpoint, run folder, metrics, summary, shipping the policy."""
