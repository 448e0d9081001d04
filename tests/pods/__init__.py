"""Workers as objects of Kubernetes."""
