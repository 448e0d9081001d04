"""Workers as pods of Kubernetes: what a job says of them, and the objects that they are."""
