"""What machines a cluster has, as a part of a job: ``helix-df discover``."""
