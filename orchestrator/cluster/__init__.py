"""The machines: Ray's session, what they have, jobs on a head."""
