"""The jobs of this machine: folders, daemons, and launchers of workers."""
